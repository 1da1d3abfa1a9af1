//! YAML as values that remember their lines, so that any later objection can
//! name one.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;
use serde_path_to_error::Segment;
use serde_saphyr::Spanned;

use super::Refused;

/// More documents, nodes and events than any sensible file holds: 5,000 pods
/// have some 250,000 nodes.
const MAX_NODES: usize = 20_000_000;
/// Deepest nesting; a policy has about ten levels.
const MAX_DEPTH: usize = 64;

/// A value and the line where it stands.
#[derive(Clone, Debug)]
pub struct Located {
    /// From 1.
    pub line: usize,
    node: Node,
}

#[derive(Clone, Debug)]
enum Node {
    Scalar(Value),
    List(Vec<Located>),
    /// With the line of each key.
    Map(Vec<(String, usize, Located)>),
}

/// Reads the documents of a file; empty ones are passed over.
///
/// # Errors
/// It is not YAML, or larger than any sensible file.
pub fn documents(text: &str) -> Result<Vec<Located>, Refused> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: MAX_NODES,
            max_nodes: MAX_NODES,
            max_events: 2 * MAX_NODES,
            max_total_scalar_bytes: 256 << 20,
            max_depth: MAX_DEPTH,
        },
        with_snippet: false,
    };
    let documents = serde_saphyr::from_multiple_with_options::<Located>(text, options);
    let documents = documents.map_err(|error| Refused {
        line: error.location().map_or(1, |at| at.line() as usize),
        reason: without_place(&error.to_string()),
    })?;
    let empty = |document: &Located| matches!(document.node, Node::Scalar(Value::Null));
    Ok(documents
        .into_iter()
        .filter(|document| !empty(document))
        .collect())
}

/// Turns a value into a type.
///
/// # Errors
/// It does not fit; the reason starts with the path of keys.
pub fn read<T: DeserializeOwned>(located: &Located) -> Result<T, Refused> {
    let value = located.value();
    // Following the path costs more than reading: only where it is asked for.
    T::deserialize(&value).or_else(|_| explain(located, value))
}

/// Reads again, and tells where it does not fit.
fn explain<T: DeserializeOwned>(located: &Located, value: Value) -> Result<T, Refused> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let reason = one_line(&error.inner().to_string());
        let path: Vec<_> = error.path().iter().cloned().collect();
        let line = located.line_of(&path);
        let reason = match error.path().to_string() {
            path if path == "." => reason,
            path => format!("{path}: {reason}"),
        };
        Refused { line, reason }
    })
}

impl Located {
    /// A key's value, of a map.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Node::Map(entries) = &self.node else {
            return None;
        };
        let mut entries = entries.iter();
        entries
            .find(|(name, _, _)| name == key)
            .map(|(_, _, value)| value)
    }

    /// The elements of a list.
    pub fn items(&self) -> Option<&[Self]> {
        match &self.node {
            Node::List(items) => Some(items),
            _ => None,
        }
    }

    /// Text, of a scalar that is text.
    pub fn text(&self) -> Option<&str> {
        match &self.node {
            Node::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// Whether it stands for nothing.
    pub fn is_null(&self) -> bool {
        matches!(self.node, Node::Scalar(Value::Null))
    }

    fn value(&self) -> Value {
        match &self.node {
            Node::Scalar(value) => value.clone(),
            Node::List(items) => Value::Array(items.iter().map(Self::value).collect()),
            Node::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|(key, _, value)| (key.clone(), value.value()))
                    .collect(),
            ),
        }
    }

    /// The line that a path leads to, as far as it leads.
    fn line_of(&self, path: &[Segment]) -> usize {
        let inner = match (path.split_first(), &self.node) {
            (Some((Segment::Seq { index }, rest)), Node::List(items)) => {
                items.get(*index).map(|item| item.line_of(rest))
            }
            (Some((Segment::Map { key }, rest)), Node::Map(entries)) => entries
                .iter()
                .find(|(name, _, _)| name == key)
                .map(|(_, line, value)| match (rest, &value.node) {
                    ([], Node::Scalar(_)) => *line,
                    _ => value.line_of(rest),
                }),
            _ => None,
        };
        inner.unwrap_or(self.line)
    }
}

impl<'de> Deserialize<'de> for Located {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Node>::deserialize(deserializer)?;
        Ok(Self {
            line: spanned.referenced.line() as usize,
            node: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = access.next_entry::<Spanned<String>, Located>()? {
            let line = key.referenced.line() as usize;
            entries.push((key.value, line, value));
        }
        Ok(Node::Map(entries))
    }
}

/// The parser's message ends with the place, which is told apart.
fn without_place(message: &str) -> String {
    let message = one_line(message);
    match message.rsplit_once(" at line ") {
        Some((cause, _)) => cause.to_owned(),
        None => message,
    }
}

fn one_line(message: &str) -> String {
    message.trim().replace('\n', "; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only whether it can be read matters")]
    struct Sample {
        list: Vec<u8>,
        #[serde(default)]
        inner: Option<Box<Sample>>,
    }

    fn refusal(text: &str) -> String {
        let documents = documents(text);
        let read = documents.and_then(|documents| {
            documents
                .iter()
                .try_for_each(|document| read::<Sample>(document).map(drop))
        });
        read.unwrap_err().to_string()
    }

    #[test]
    fn objections_name_line_and_path() {
        for (text, expected) in [
            ("list:\n- 1\n- 300\n", "line 3: list[1]: invalid value"),
            (
                "list: []\ninner:\n  list: []\n  lists: 1\n",
                "line 4: inner.lists: unknown field `lists`",
            ),
            (
                "---\nlist: []\n---\n# second\nlist: text\n",
                "line 5: list: invalid type: string \"text\"",
            ),
            ("inner: null\n", "line 1: missing field `list`"),
            (
                "list: []\nlist: []\n",
                "line 2: duplicate mapping key: list",
            ),
            ("list: [1\n", "line 1: unclosed bracket"),
            ("list:\n\t- 1\n", "line 2: tabs disallowed"),
        ] {
            let refusal = refusal(text);
            assert!(refusal.starts_with(expected), "{text:?}: {refusal}");
        }
    }

    #[test]
    fn documents_without_content_are_none() {
        assert_eq!(documents("---\n---\n# nothing\n").unwrap().len(), 0);
        assert_eq!(documents("").unwrap().len(), 0);
        assert_eq!(documents("{\"a\": 1}").unwrap().len(), 1);
    }
}
