//! How much of something an endpoint may still cause.

/// Value of `event_tokens`, `flow_tokens` and `flow_credit`, indexed by endpoint
/// id: how many events the endpoint may still cause, how many flows it may still
/// open, how many of these it is trusted to have answered.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenBucket {
    /// When `nano_tokens` was last brought up to date, ns since boot.
    pub updated_ns: u64,
    /// Events left, in billionths of one, so that a refill loses nothing.
    pub nano_tokens: u64,
}

/// One token, in the unit of [`TokenBucket::nano_tokens`].
const TOKEN: u64 = 1_000_000_000;

impl TokenBucket {
    /// Takes one token if there is one, after a refill at `rate` tokens a
    /// second up to a burst of one second's worth.
    ///
    /// ```
    /// # use dataplane_ebpf::abi::TokenBucket;
    /// let mut bucket = TokenBucket::default();
    /// assert!(bucket.take(5_000_000_000, 1));
    /// assert!(!bucket.take(5_000_000_000, 1));
    /// ```
    #[inline(always)]
    pub fn take(&mut self, now_ns: u64, rate: u32) -> bool {
        let rate = rate as u64;
        let burst = rate * TOKEN;
        let elapsed = now_ns.saturating_sub(self.updated_ns);
        self.updated_ns = now_ns;
        // Beyond a second the bucket is full; the bound also rules out overflow.
        let level = if elapsed >= TOKEN {
            burst
        } else {
            let level = self.nano_tokens.saturating_add(elapsed * rate);
            if level > burst { burst } else { level }
        };
        let granted = level >= TOKEN;
        self.nano_tokens = if granted { level - TOKEN } else { level };
        granted
    }

    /// Puts a token back that was taken, up to a burst of `rate` tokens.
    #[inline(always)]
    pub fn give_back(&mut self, rate: u32) {
        let burst = rate as u64 * TOKEN;
        let level = self.nano_tokens.saturating_add(TOKEN);
        self.nano_tokens = if level > burst { burst } else { level };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_grants_its_rate_and_no_more() {
        let mut bucket = TokenBucket::default();
        let start = 77_000_000_000;
        let burst = (0..100).filter(|_| bucket.take(start, 10)).count();
        assert_eq!(burst, 10);
        // Asked every millisecond for two seconds, ten a second are granted.
        let granted = (1..=2000)
            .filter(|ms| bucket.take(start + ms * 1_000_000, 10))
            .count();
        assert_eq!(granted, 20);
        assert!(!TokenBucket::default().take(start, 0));
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let mut bucket = TokenBucket::default();
        let start = 77_000_000_000;
        let take = |bucket: &mut TokenBucket| bucket.take(start, 2);
        assert!(take(&mut bucket) && take(&mut bucket) && !take(&mut bucket));
        for _ in 0..5 {
            bucket.give_back(2);
        }
        assert!(take(&mut bucket) && take(&mut bucket) && !take(&mut bucket));
    }

    #[test]
    fn a_bucket_survives_a_clock_that_steps_back() {
        let mut bucket = TokenBucket::default();
        assert!(bucket.take(2_000_000_000, 1));
        assert!(!bucket.take(1_000_000_000, 1));
        assert!(bucket.take(u64::MAX, u32::MAX));
    }
}
