//! A folder of plain Kubernetes manifests.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Refused,
    object::{Placed, read_objects},
};
use crate::policy::model::{Model, ObjectName};

/// Largest file read, in bytes; 5,000 pods are below a tenth of it.
const FILE_LIMIT: u64 = 64 << 20;

/// The folder's files, as far as they were sound when last read.
///
/// A file that cannot be read is refused as a whole, and what it said before
/// stays in force, over restarts too: the text that was accepted last is kept
/// in a folder of the agent's.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// `None` keeps nothing for later.
    accepted: Option<PathBuf>,
    files: BTreeMap<String, File>,
    model: Model,
}

#[derive(Debug)]
struct File {
    /// Of the text.
    hash: u64,
    /// What it says.
    read: Result<Vec<Placed>, Refused>,
    /// What of it, or of an earlier version, counts.
    in_force: Vec<Placed>,
    /// Why that is not what it says.
    refused: Option<Refused>,
}

/// One file, for `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileState {
    /// Its path.
    pub path: PathBuf,
    /// Objects of it that are in force.
    pub objects: usize,
    /// Why its present text is not.
    pub refused: Option<Refused>,
}

/// What a look at the folder found.
#[derive(Clone, Debug)]
pub struct Scan {
    /// All that is in force.
    pub model: Model,
    /// The files.
    pub files: Vec<FileState>,
}

impl Directory {
    /// The folder at `path`; `accepted` is where accepted texts are kept.
    pub fn new(path: &Path, accepted: &Path) -> Self {
        Self {
            path: path.to_owned(),
            accepted: Some(accepted.to_owned()),
            files: BTreeMap::new(),
            model: Model::default(),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads what has changed, so that [`Directory::scan`] finds it read, unless
    /// it changes once more. Nothing comes into force by this.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn read_ahead(&mut self) -> io::Result<()> {
        for (name, text) in &manifests(&self.path)? {
            self.read(name, text);
        }
        Ok(())
    }

    /// Reads what has changed.
    ///
    /// # Errors
    /// The folder cannot be listed: then nothing is known of what it says, and
    /// what was in force stays.
    pub fn scan(&mut self) -> io::Result<Scan> {
        let texts = manifests(&self.path)?;
        self.files.retain(|name, _| texts.contains_key(name));
        for (name, text) in &texts {
            self.read(name, text);
        }
        self.settle_owners();
        self.keep_accepted(&texts);
        self.collect();
        Ok(Scan {
            model: self.model.clone(),
            files: self.states(),
        })
    }

    fn read(&mut self, name: &str, text: &Result<String, Refused>) {
        let mut hasher = DefaultHasher::new();
        text.as_ref()
            .map_err(|refused| &refused.reason)
            .hash(&mut hasher);
        let hash = hasher.finish();
        let known = self.files.get(name);
        if known.is_some_and(|file| file.hash == hash) {
            return;
        }
        let in_force = match self.files.remove(name) {
            Some(file) => file.in_force,
            // Of an earlier agent.
            None => self
                .accepted
                .as_ref()
                .and_then(|folder| fs::read_to_string(folder.join(name)).ok())
                .and_then(|text| read_objects(&text).ok())
                .unwrap_or_default(),
        };
        let read = text.clone().and_then(|text| read_objects(&text));
        let file = File {
            hash,
            read,
            in_force,
            refused: None,
        };
        self.files.insert(name.to_owned(), file);
    }

    /// Decides what counts where files say different things of one object: in
    /// the order of their names, the first has it.
    fn settle_owners(&mut self) {
        let mut owners = HashMap::<ObjectName, (String, usize)>::new();
        for (name, file) in &mut self.files {
            let conflict = |line: &usize, object: &ObjectName| {
                let (owner, there) = owners.get(object)?;
                Some(Refused {
                    line: *line,
                    reason: format!(
                        "{object} is already in {owner}, line {there}; remove one of them"
                    ),
                })
            };
            let sound = file.read.as_ref().map_err(Refused::clone);
            let sound = sound.and_then(|objects| {
                let mut conflicts = objects
                    .iter()
                    .filter_map(|(line, object)| conflict(line, &object.name()));
                conflicts.next().map_or(Ok(objects), Err)
            });
            match sound {
                Ok(objects) => {
                    file.in_force.clone_from(objects);
                    file.refused = None;
                }
                Err(refused) => {
                    file.in_force
                        .retain(|(_, object)| !owners.contains_key(&object.name()));
                    file.refused = Some(refused);
                }
            }
            for (line, object) in &file.in_force {
                owners.insert(object.name(), (name.clone(), *line));
            }
        }
    }

    /// Keeps the texts in force for the next start. A failure costs nothing
    /// until a file is bad at that start.
    fn keep_accepted(&self, texts: &Texts) {
        let Some(folder) = &self.accepted else {
            return;
        };
        let kept = fs::create_dir_all(folder).and_then(|()| {
            for entry in fs::read_dir(folder)?.flatten() {
                if !texts.contains_key(entry.file_name().to_string_lossy().as_ref()) {
                    fs::remove_file(entry.path())?;
                }
            }
            let sound = texts.iter().filter_map(|(name, text)| {
                let accepted = self.files.get(name)?.refused.is_none();
                text.as_ref()
                    .ok()
                    .filter(|_| accepted)
                    .map(|text| (name, text))
            });
            for (name, text) in sound {
                let path = folder.join(name);
                if fs::read_to_string(&path).is_ok_and(|present| present == *text) {
                    continue;
                }
                let temporary = folder.join(".new");
                fs::write(&temporary, text)?;
                fs::rename(&temporary, &path)?;
            }
            Ok(())
        });
        if let Err(error) = kept {
            tracing::warn!(
                "{}: cannot keep the accepted policies: {error}",
                folder.display()
            );
        }
    }

    /// Puts the model together; what is equal to before stays the same
    /// allocation.
    fn collect(&mut self) {
        let mut model = Model::default();
        for file in self.files.values() {
            for (_, object) in &file.in_force {
                model.put(object.clone());
            }
        }
        keep_same(&self.model.namespaces, &mut model.namespaces);
        keep_same(&self.model.pods, &mut model.pods);
        keep_same(&self.model.policies, &mut model.policies);
        self.model = model;
    }

    fn states(&self) -> Vec<FileState> {
        let states = self.files.iter().map(|(name, file)| FileState {
            path: self.path.join(name),
            objects: file.in_force.len(),
            refused: file.refused.clone(),
        });
        states.collect()
    }
}

/// Reads a folder for once.
///
/// # Errors
/// It cannot be listed.
pub fn scan_once(path: &Path) -> io::Result<Scan> {
    let mut directory = Directory {
        path: path.to_owned(),
        accepted: None,
        files: BTreeMap::new(),
        model: Model::default(),
    };
    directory.scan()
}

fn keep_same<K: Ord, V: PartialEq>(old: &BTreeMap<K, Arc<V>>, new: &mut BTreeMap<K, Arc<V>>) {
    for (key, value) in new {
        if let Some(present) = old.get(key).filter(|present| *present == value) {
            *value = Arc::clone(present);
        }
    }
}

type Texts = BTreeMap<String, Result<String, Refused>>;

/// The manifests' texts by file name: what ends in `.yaml`, `.yml` or `.json`
/// and is not hidden, links included, folders not.
fn manifests(path: &Path) -> io::Result<Texts> {
    let mut texts = Texts::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        let wanted = [".yaml", ".yml", ".json"]
            .iter()
            .any(|extension| name.ends_with(extension));
        let file = path.join(name);
        if name.starts_with('.') || !wanted || file.is_dir() {
            continue;
        }
        match text(&file) {
            // Gone since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !file.is_symlink() => {}
            Err(error) => {
                let reason = format!("cannot be read: {error}");
                texts.insert(name.to_owned(), Err(Refused { line: 1, reason }));
            }
            Ok(text) => {
                texts.insert(name.to_owned(), Ok(text));
            }
        }
    }
    Ok(texts)
}

fn text(path: &Path) -> io::Result<String> {
    let size = fs::metadata(path)?.len();
    if size > FILE_LIMIT {
        return Err(io::Error::other(format!(
            "{size} bytes, more than {FILE_LIMIT}; split it"
        )));
    }
    fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str, label: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{a: {label}}}}}\n"
        )
    }

    struct Folder {
        root: tempfile::TempDir,
        directory: Directory,
    }

    impl Folder {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir(root.path().join("in")).unwrap();
            let directory = Directory::new(&root.path().join("in"), &root.path().join("accepted"));
            Self { root, directory }
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.root.path().join("in").join(name), text).unwrap();
        }

        /// The labels of each namespace, and what was refused.
        fn scan(&mut self) -> (Vec<String>, Vec<String>) {
            let scan = self.directory.scan().unwrap();
            let labels = scan.model.namespaces.iter();
            let refused = scan.files.iter().filter_map(|file| file.refused.as_ref());
            (
                labels
                    .map(|(name, labels)| format!("{name}={}", labels["a"]))
                    .collect(),
                refused.map(ToString::to_string).collect(),
            )
        }

        fn restart(&mut self) {
            self.directory = Directory::new(
                &self.root.path().join("in"),
                &self.root.path().join("accepted"),
            );
        }
    }

    #[test]
    fn a_bad_file_leaves_what_it_said_before_in_force_over_a_restart() {
        let mut folder = Folder::new();
        folder.write("a.yaml", &namespace("one", "x"));
        folder.write("notes.txt", "no manifest");
        assert_eq!(folder.scan(), (vec!["one=x".into()], vec![]));

        folder.write("a.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {}\n");
        let refusal = "line 3: metadata: missing field `name`".to_owned();
        assert_eq!(folder.scan(), (vec!["one=x".into()], vec![refusal.clone()]));
        folder.restart();
        assert_eq!(folder.scan(), (vec!["one=x".into()], vec![refusal]));

        folder.write("a.yaml", &namespace("one", "z"));
        assert_eq!(folder.scan(), (vec!["one=z".into()], vec![]));
        fs::remove_file(folder.root.path().join("in/a.yaml")).unwrap();
        assert_eq!(folder.scan(), (vec![], vec![]));
        folder.restart();
        assert_eq!(folder.scan(), (vec![], vec![]));
    }

    #[test]
    fn what_was_read_ahead_comes_into_force_by_a_scan_as_it_then_is() {
        let mut folder = Folder::new();
        folder.write("a.yaml", &namespace("one", "x"));
        folder.scan();
        folder.write("a.yaml", "half of a fi: le: ");
        folder.write("b.yaml", &namespace("two", "x"));
        folder.directory.read_ahead().unwrap();
        assert_eq!(folder.directory.model.namespaces.len(), 1);
        folder.write("a.yaml", &namespace("one", "z"));
        fs::remove_file(folder.root.path().join("in/b.yaml")).unwrap();
        assert_eq!(folder.scan(), (vec!["one=z".into()], vec![]));
    }

    #[test]
    fn an_object_in_two_files_belongs_to_the_first() {
        let mut folder = Folder::new();
        folder.write("b.yaml", &namespace("one", "b"));
        assert_eq!(folder.scan(), (vec!["one=b".into()], vec![]));
        folder.write("a.yaml", &namespace("one", "a"));
        let refusal =
            "line 1: Namespace one is already in a.yaml, line 1; remove one of them".to_owned();
        assert_eq!(folder.scan(), (vec!["one=a".into()], vec![refusal]));
        // Moved to the first file for good: nothing is wrong any more.
        folder.write("b.yaml", &namespace("two", "b"));
        let both = vec!["one=a".into(), "two=b".into()];
        assert_eq!(folder.scan(), (both, vec![]));
    }

    #[test]
    fn what_did_not_change_stays_the_same_allocation() {
        let mut folder = Folder::new();
        let two = namespace("one", "x") + "---\n" + &namespace("two", "x");
        folder.write("a.yaml", &two);
        let before = folder.directory.scan().unwrap().model;
        folder.write("a.yaml", &two.replacen("a: x", "a: z", 1));
        let after = folder.directory.scan().unwrap().model;
        let same = |name: &str| Arc::ptr_eq(&before.namespaces[name], &after.namespaces[name]);
        assert!(!same("one"));
        assert!(same("two"));
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("missing");
        let mut directory = Directory::new(&path, &root.path().join("accepted"));
        assert!(directory.scan().is_err());
    }
}
