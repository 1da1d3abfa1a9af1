//! Values by counter, in the order in which the counters came first.
//!
//! A driver lists its counters in the same order each time, so that a value is nearly always found
//! where it is looked for first. A node may have tens of thousands of them.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::catalogue::{Entry, lookup};
use crate::rdma::Driver;

/// Values of one driver's counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table<T> {
    driver: Option<Driver>,
    rows: Vec<Row<T>>,
}

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row<T> {
    /// The driver's name for the counter.
    pub name: Arc<str>,
    /// What is known of the counter.
    pub entry: Option<&'static Entry>,
    /// The value.
    pub value: T,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            driver: None,
            rows: Vec::new(),
        }
    }
}

impl<T> Table<T> {
    /// Says whose counters these are.
    pub fn set_driver(&mut self, driver: Option<Driver>) {
        if self.driver == driver {
            return;
        }
        self.driver = driver;
        for row in &mut self.rows {
            row.entry = lookup(driver, &row.name);
        }
    }

    /// Where a counter's value is, looked for at `place` first.
    pub fn find(&self, name: &Arc<str>, place: usize) -> Option<usize> {
        let is = |row: &Row<T>| Arc::ptr_eq(&row.name, name) || row.name == *name;
        if self.rows.get(place).is_some_and(is) {
            return Some(place);
        }
        self.rows.iter().position(is)
    }

    /// Adds a counter that is not there yet; where it is.
    pub fn add(&mut self, name: Arc<str>, value: T) -> usize {
        let entry = lookup(self.driver, &name);
        self.rows.push(Row { name, entry, value });
        self.rows.len() - 1
    }

    /// All of them.
    pub fn rows(&self) -> &[Row<T>] {
        &self.rows
    }

    /// The one at a place that [`Table::find`] or [`Table::add`] told.
    pub fn at(&mut self, place: usize) -> &mut Row<T> {
        &mut self.rows[place]
    }
}

impl<T> FromIterator<(Arc<str>, T)> for Table<T> {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, T)>>(values: I) -> Self {
        let mut table = Self::default();
        for (name, value) in values {
            table.add(name, value);
        }
        table
    }
}

/// A map of names and values.
impl<T: Serialize> Serialize for Table<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.rows.iter().map(|row| (&*row.name, &row.value)))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Table<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let values = BTreeMap::<String, T>::deserialize(deserializer)?;
        let values = values.into_iter().map(|(name, value)| (name.into(), value));
        Ok(values.collect())
    }
}
