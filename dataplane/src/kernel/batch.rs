//! Many elements of a map in one system call, where the kernel can: hash tables
//! since 5.6, tries since 5.13. Elsewhere one by one.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use dataplane_ebpf::abi::Plain;
use nix::libc::{E2BIG, ENOENT, ENOSPC, EOPNOTSUPP};

use super::{
    error::{KernelError, refused},
    sys::{self, Batch},
};

/// `ENOTSUPP`, which no header of user space has (kernel `linux/errno.h`).
pub(super) const ENOTSUPP: i32 = 524;

/// A map to write many elements to.
pub(super) struct Batched<'a> {
    name: &'static str,
    map: BorrowedFd<'a>,
}

impl<'a> Batched<'a> {
    pub(super) fn new(name: &'static str, map: &'a impl AsFd) -> Self {
        Self {
            name,
            map: map.as_fd(),
        }
    }

    /// Adds elements, or changes what is there; in order, up to the first that
    /// fails.
    pub(super) fn update<K: Plain, V: Plain>(
        &self,
        keys: &[K],
        values: &[V],
    ) -> Result<(), KernelError> {
        let elements = keys.len().min(values.len());
        if elements == 0 {
            return Ok(());
        }
        let batch = Batch::update(&self.map, bytes(keys), bytes(values), elements as u32);
        let written = match batch.run() {
            (_, Err(error)) if is_unknown(&error) => {
                keys.iter().zip(values).try_for_each(|(key, value)| {
                    let (key, value) = (
                        bytes(std::slice::from_ref(key)),
                        std::slice::from_ref(value),
                    );
                    sys::update(self.map, key, bytes(value), 0)
                })
            }
            (_, result) => result,
        };
        self.told(written)
    }

    /// Takes elements out, in order; those that are not there are no error.
    pub(super) fn remove<K: Plain>(&self, keys: &[K]) -> Result<(), KernelError> {
        let mut left = keys;
        while !left.is_empty() {
            let batch = Batch::delete(&self.map, bytes(left), left.len() as u32);
            let (removed, result) = batch.run();
            match result {
                Ok(()) => return Ok(()),
                Err(error) if is_unknown(&error) => return self.remove_singly(left),
                // The kernel stops at the first that is not there.
                Err(error) if error.raw_os_error() == Some(ENOENT) => {
                    left = left.get(removed as usize + 1..).unwrap_or_default();
                }
                Err(error) => return self.told(Err(error)),
            }
        }
        Ok(())
    }

    fn remove_singly<K: Plain>(&self, keys: &[K]) -> Result<(), KernelError> {
        let removed = keys.iter().try_for_each(|key| {
            match sys::delete(self.map, bytes(std::slice::from_ref(key))) {
                Err(error) if error.raw_os_error() == Some(ENOENT) => Ok(()),
                result => result,
            }
        });
        self.told(removed)
    }

    fn told(&self, result: io::Result<()>) -> Result<(), KernelError> {
        result.map_err(|error| match error.raw_os_error() {
            Some(E2BIG | ENOSPC) => KernelError::Full { map: self.name },
            _ => refused(format!("map {}", self.name), &error),
        })
    }
}

/// The map's kind, or this kernel, takes one element at a time only.
pub(super) fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EOPNOTSUPP | ENOTSUPP))
}

fn bytes<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: `Plain` promises that every byte of a value is one of its
    // integers'.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}
