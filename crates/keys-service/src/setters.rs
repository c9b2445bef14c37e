//! Setters of builders.

/// Defines the methods of a builder that set the field of their name. A field that is optional may
/// have a setter that takes the value itself.
macro_rules! setters {
    ($($(#[$attribute:meta])+ $field:ident: $type:ty,)+) => {
        $(
            $(#[$attribute])+
            pub fn $field(mut self, $field: $type) -> Self {
                self.$field = $field.into();
                self
            }
        )+
    };
}
pub(crate) use setters;
