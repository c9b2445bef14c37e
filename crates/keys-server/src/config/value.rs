//! Values of settings before they are checked: one tree, in which later layers replace parts of
//! earlier ones.

use std::collections::BTreeMap;
use std::collections::btree_map::{Entry, IntoIter};

use config::{Map, ValueKind};
use serde::de::value::{SeqDeserializer, StringDeserializer};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::explain::Fault;

/// A table of settings, or one value.
pub(super) enum Value {
    Table(BTreeMap<String, Value>),
    List(Vec<Value>),
    Bool(bool),
    Integer(i64),
    Float(f64),
    /// Also a date or a time of TOML. No setting has such a value.
    Text(String),
    /// The text of an environment variable. The setting decides whether it is read as a number, a
    /// boolean, a list or a text, so that `007` stays `007` in a text.
    Variable(String),
}

impl Value {
    pub(super) fn empty() -> Self {
        Self::Table(BTreeMap::new())
    }

    /// Overrides these settings by those of `over`. Tables are merged, and anything else is
    /// replaced.
    pub(super) fn merge(&mut self, over: Self) {
        match (self, over) {
            (Self::Table(below), Self::Table(over)) => {
                for (name, value) in over {
                    match below.entry(name) {
                        Entry::Occupied(mut entry) => entry.get_mut().merge(value),
                        Entry::Vacant(entry) => {
                            entry.insert(value);
                        }
                    }
                }
            }
            (below, over) => *below = over,
        }
    }

    /// Sets the value at a path of names. Returns `false` if a part of the path is a value and not
    /// a table.
    pub(super) fn set(&mut self, path: &[String], value: Self) -> bool {
        let Some((name, rest)) = path.split_first() else {
            *self = value;
            return true;
        };
        let Self::Table(members) = self else {
            return false;
        };
        let member = members.entry(name.clone()).or_insert_with(Self::empty);
        member.set(rest, value)
    }

    /// Returns the text at a path of names, if there is one.
    pub(super) fn text_mut(&mut self, path: &[&str]) -> Option<&mut String> {
        match (self, path.split_first()) {
            (Self::Text(text) | Self::Variable(text), None) => Some(text),
            (Self::Table(members), Some((name, rest))) => members.get_mut(*name)?.text_mut(rest),
            _ => None,
        }
    }

    /// Returns the value at a path of names.
    #[cfg(test)]
    pub(super) fn get(&self, path: &[&str]) -> Option<&Self> {
        match (self, path.split_first()) {
            (value, None) => Some(value),
            (Self::Table(members), Some((name, rest))) => members.get(*name)?.get(rest),
            _ => None,
        }
    }

    /// Returns whether a table has a field of that name.
    pub(super) fn has(&self, name: &str) -> bool {
        matches!(self, Self::Table(members) if members.contains_key(name))
    }

    /// Returns the paths of all values that are not tables.
    pub(super) fn paths(&self) -> Vec<Vec<&str>> {
        let Self::Table(members) = self else {
            return vec![Vec::new()];
        };
        let mut paths = Vec::new();
        for (name, value) in members {
            for mut path in value.paths() {
                path.insert(0, name);
                paths.push(path);
            }
        }
        paths
    }
}

impl From<config::Value> for Value {
    fn from(value: config::Value) -> Self {
        match value.kind {
            ValueKind::Table(members) => members.into(),
            ValueKind::Array(elements) => {
                Self::List(elements.into_iter().map(Self::from).collect())
            }
            ValueKind::Boolean(value) => Self::Bool(value),
            ValueKind::I64(value) => Self::Integer(value),
            ValueKind::Float(value) => Self::Float(value),
            ValueKind::String(value) => Self::Text(value),
            // TOML has none of these.
            kind @ (ValueKind::Nil
            | ValueKind::I128(_)
            | ValueKind::U64(_)
            | ValueKind::U128(_)) => Self::Text(kind.to_string()),
        }
    }
}

impl From<Map<String, config::Value>> for Value {
    fn from(members: Map<String, config::Value>) -> Self {
        let members = members.into_iter();
        Self::Table(members.map(|(name, value)| (name, value.into())).collect())
    }
}

impl IntoDeserializer<'_, Fault> for Value {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// Passes a variable that is a whole number to the visitor as a number. All others are passed as
/// texts, which the visitor refuses.
macro_rules! integers {
    ($($method:ident)*) => {
        $(
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
                match &self {
                    Self::Variable(text) => match text.parse() {
                        Ok(number) => visitor.visit_i64(number),
                        Err(_) => self.deserialize_any(visitor),
                    },
                    _ => self.deserialize_any(visitor),
                }
            }
        )*
    };
}

/// Converts nothing: a visitor gets the value in the file, and the text of a variable as the type
/// of the setting.
impl<'de> Deserializer<'de> for Value {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self {
            Self::Table(members) => visitor.visit_map(Members {
                rest: members.into_iter(),
                value: None,
            }),
            Self::List(elements) => visitor.visit_seq(SeqDeserializer::new(elements.into_iter())),
            Self::Bool(value) => visitor.visit_bool(value),
            Self::Integer(value) => visitor.visit_i64(value),
            Self::Float(value) => visitor.visit_f64(value),
            Self::Text(value) | Self::Variable(value) => visitor.visit_string(value),
        }
    }

    integers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self {
            Self::Variable(text) if text.eq_ignore_ascii_case("true") => visitor.visit_bool(true),
            Self::Variable(text) if text.eq_ignore_ascii_case("false") => visitor.visit_bool(false),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let Self::Variable(text) = self else {
            return self.deserialize_any(visitor);
        };
        let elements = text
            .split(',')
            .map(|element| Self::Variable(element.trim().to_owned()));
        visitor.visit_seq(SeqDeserializer::new(elements))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self {
            Self::Text(text) | Self::Variable(text) => {
                StringDeserializer::new(text).deserialize_enum(name, variants, visitor)
            }
            _ => self.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier
        ignored_any
    }
}

/// The fields of a table. They add their names to the errors of their values.
struct Members {
    rest: IntoIter<String, Value>,
    value: Option<(String, Value)>,
}

impl<'de> MapAccess<'de> for Members {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        self.value = self.rest.next();
        let Some((name, _)) = &self.value else {
            return Ok(None);
        };
        seed.deserialize(name.as_str().into_deserializer())
            .map(Some)
            .map_err(|fault: Fault| fault.of_name(name))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some((name, value)) = self.value.take() else {
            return Err(Fault::custom("a value is read before its name"));
        };
        seed.deserialize(value).map_err(|fault| fault.within(name))
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use config::{File, FileFormat, Source as _};

    use super::*;

    fn read<T: DeserializeOwned>(value: Value) -> Option<T> {
        T::deserialize(value).ok()
    }

    fn variable(text: &str) -> Value {
        Value::Variable(text.to_owned())
    }

    #[test]
    fn variable_is_read_as_what_the_setting_is() {
        assert_eq!(read::<String>(variable("007")).unwrap(), "007");
        assert_eq!(read::<String>(variable("true")).unwrap(), "true");
        assert_eq!(read::<String>(variable("1e9")).unwrap(), "1e9");
        assert_eq!(read::<u32>(variable("007")), Some(7));
        assert_eq!(read::<bool>(variable("False")), Some(false));
        let list: Vec<String> = read(variable("a, 1,true")).unwrap();
        assert_eq!(list, ["a", "1", "true"]);
    }

    #[test]
    fn nothing_is_converted() {
        for text in [
            "0.4", "10.5", "1e9", "yes", "true", "", "1_000", "0x10", "10.0",
        ] {
            assert_eq!(read::<u64>(variable(text)), None, "{text}");
        }
        for text in ["1", "0", "yes", "on", "", "t"] {
            assert_eq!(read::<bool>(variable(text)), None, "{text}");
        }
        for text in ["-1", "4294967296"] {
            assert_eq!(read::<u32>(variable(text)), None, "{text}");
        }
        assert_eq!(read::<u64>(Value::Float(10.0)), None);
        assert_eq!(read::<u64>(Value::Bool(true)), None);
        assert_eq!(read::<u64>(Value::Text("1".to_owned())), None);
        assert_eq!(read::<bool>(Value::Integer(1)), None);
        assert_eq!(read::<bool>(Value::Text("true".to_owned())), None);
        assert_eq!(read::<String>(Value::Integer(1)), None);
        assert_eq!(read::<String>(Value::Bool(true)), None);
        assert_eq!(read::<Vec<String>>(Value::Text("a,b".to_owned())), None);
    }

    #[test]
    fn later_layers_replace_values_and_keep_the_rest_of_tables() {
        let parse = |text| Value::from(File::from_str(text, FileFormat::Toml).collect().unwrap());
        let mut value = parse("[a]\nb = 1\nc = 2");
        value.merge(parse("a.b = 3\nd = 4"));
        assert_eq!(value.paths(), [vec!["a", "b"], vec!["a", "c"], vec!["d"]]);
        value.merge(parse("d.e = 5"));
        let tables: Option<BTreeMap<String, BTreeMap<String, i64>>> = read(value);
        assert_eq!(tables.unwrap()["a"]["b"], 3);
    }
}
