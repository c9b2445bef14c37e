//! Macros for types with a stable text.

/// Defines an enum whose values have stable names, the list of its values, and the method that
/// returns the name. All three are complete, because they are made from the same table.
macro_rules! table {
    (
        $(#[$of_enum:meta])+
        pub enum $enum:ident;

        $(#[$of_all:meta])+
        ALL;

        $(#[$of_name:meta])+
        $name:ident;

        $($(#[$of_value:meta])+ $value:ident = $text:literal,)+
    ) => {
        $(#[$of_enum])+
        pub enum $enum {
            $($(#[$of_value])+ $value,)+
        }

        impl $enum {
            $(#[$of_all])+
            pub const ALL: [Self; [$($text),+].len()] = [$(Self::$value),+];

            $(#[$of_name])+
            #[must_use]
            pub const fn $name(self) -> &'static str {
                match self {
                    $(Self::$value => $text,)+
                }
            }
        }
    };
}
pub(crate) use table;

/// Implements `Display` for types whose `as_str` returns the whole text.
macro_rules! display_as_str {
    ($($type:ident),+) => {
        $(
            impl std::fmt::Display for $type {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str(self.as_str())
                }
            }
        )+
    };
}
pub(crate) use display_as_str;
