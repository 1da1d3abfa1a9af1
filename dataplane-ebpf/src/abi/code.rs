//! How types stand in a map's memory, on both sides of it.

/// Types whose every bit pattern is valid and that have no hidden padding, so
/// that they may be copied to and from a map as plain bytes.
///
/// # Safety
/// Implement only for `repr(C)` types made of integers and arrays of integers
/// whose fields fill the whole size.
pub unsafe trait Plain: Copy + 'static {}

/// How an enumeration stands in a map: the programs and bpftool see the enum
/// (BTF then gives its names), user space reads the number and converts it,
/// since a foreign byte need not be a valid variant.
pub trait Coded {
    /// The field's type on this side.
    type Repr: Copy;
}

/// A field that holds the enumeration `E`; see [`Coded`].
pub type Code<E> = <E as Coded>::Repr;

/// Declares a `repr(u8)` enumeration with stable numbers, its names for
/// people, and conversions that refuse unknown numbers.
macro_rules! coded_enum {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $value:literal => $text:literal,)+ }) => {
        $(#[$meta])*
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vmeta])* $variant = $value,)+ }

        impl $name {
            /// Every variant, in the order of the numbers.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in the CLI, in metrics and in events.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// How this side stores the variant in a map.
            #[cfg(feature = "kernel")]
            #[inline(always)]
            pub const fn code(self) -> $crate::abi::Code<Self> { self }

            /// How this side stores the variant in a map.
            #[cfg(not(feature = "kernel"))]
            pub const fn code(self) -> $crate::abi::Code<Self> { self as u8 }
        }

        impl $crate::abi::Coded for $name {
            #[cfg(feature = "kernel")]
            type Repr = Self;
            #[cfg(not(feature = "kernel"))]
            type Repr = u8;
        }

        impl TryFrom<u8> for $name {
            /// The number that no variant has.
            type Error = u8;
            fn try_from(number: u8) -> Result<Self, u8> {
                match number { $($value => Ok(Self::$variant),)+ other => Err(other) }
            }
        }
    };
}
pub(crate) use coded_enum;
