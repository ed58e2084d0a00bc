//! The folder is replaced whole or not at all, and never somebody else's work.

use super::*;

fn files(text: &str) -> BTreeMap<String, String> {
    [
        ("base/a.yaml", text),
        ("base/filter.lock", "x"),
        ("overlays/dev/kustomization.yaml", "d"),
        ("overlays/cert-manager/kustomization.yaml", "c"),
        ("overlays/prod/kustomization.yaml", "p"),
    ]
    .map(|(path, text)| (path.to_owned(), text.to_owned()))
    .into()
}

#[test]
fn what_was_written_is_up_to_date_and_what_is_no_longer_wanted_goes() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = files("# Written by `meshward render` one");
    first.insert("base/gone.yaml".to_owned(), "# Written by `meshward render`".to_owned());
    replace(folder.path(), &first, None).unwrap();
    assert_eq!(differences(folder.path(), &first).unwrap(), []);
    let second = files("# Written by `meshward render` two");
    let paths: Vec<_> =
        differences(folder.path(), &second).unwrap().into_iter().map(|one| one.path).collect();
    assert_eq!(paths, ["base/a.yaml", "base/gone.yaml"]);
    replace(folder.path(), &second, None).unwrap();
    assert_eq!(differences(folder.path(), &second).unwrap(), []);
    let left: Vec<_> = folder.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "no staging folder is left behind: {left:?}");
}

#[test]
fn a_file_of_somebody_else_stops_it_before_anything_changes() {
    let folder = tempfile::tempdir().unwrap();
    replace(folder.path(), &files("one"), None).unwrap();
    std::fs::write(folder.path().join("base/mine.yaml"), "kind: Mine\n").unwrap();
    let failure = replace(folder.path(), &files("two"), None).unwrap_err();
    assert!(failure.diagnostics[0].message.contains("base/mine.yaml"), "{failure:?}");
    assert_eq!(std::fs::read_to_string(folder.path().join("base/a.yaml")).unwrap(), "one");
    assert!(folder.path().join("base/mine.yaml").exists());
}

#[test]
fn other_overlays_and_the_mesh_file_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("overlays/mine")).unwrap();
    std::fs::write(folder.path().join("overlays/mine/kustomization.yaml"), "m").unwrap();
    std::fs::write(folder.path().join("mesh.yaml"), "m").unwrap();
    replace(folder.path(), &files("one"), None).unwrap();
    assert!(folder.path().join("overlays/mine/kustomization.yaml").exists());
    assert!(folder.path().join("mesh.yaml").exists());
}

#[test]
fn the_lock_names_the_module_and_garbage_in_it_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(locked_filter(folder.path()).unwrap(), None);
    let filter = Filter { sha256: "ab".repeat(32), distribution: Distribution::ConfigMap };
    let mut wanted = files("x");
    wanted.insert("base/filter.lock".to_owned(), lock(&filter).unwrap());
    replace(folder.path(), &wanted, None).unwrap();
    assert_eq!(locked_filter(folder.path()).unwrap(), Some(filter));
    std::fs::write(folder.path().join("base/filter.lock"), "nonsense").unwrap();
    assert!(
        locked_filter(folder.path()).unwrap_err().diagnostics[0]
            .message
            .contains("does not say which module")
    );
}

#[test]
fn the_module_goes_where_kustomize_looks_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let module = folder.path().join("some.wasm");
    std::fs::write(&module, b"\0asm").unwrap();
    let filter = Filter { sha256: "cd".repeat(32), distribution: Distribution::ConfigMap };
    let mut wanted = files("x");
    wanted.insert("base/filter/.gitignore".to_owned(), "*.wasm\n".to_owned());
    replace(folder.path(), &wanted, Some((&filter, &module))).unwrap();
    assert!(folder.path().join("base/filter/meshward-cdcdcdcdcdcd.wasm").is_file());
    assert_eq!(differences(folder.path(), &wanted).unwrap(), [], "modules are not compared");
}

#[test]
fn a_module_of_another_release_is_not_rendered_for() {
    let folder = tempfile::tempdir().unwrap();
    let filter = Filter { sha256: "ab".repeat(32), distribution: Distribution::ConfigMap };
    let ours = compile::wire_version().unwrap();
    let other =
        lock(&filter).unwrap().replace(&format!("Version: {ours}"), &format!("Version: {}", ours + 1));
    std::fs::create_dir_all(folder.path().join("base")).unwrap();
    std::fs::write(folder.path().join("base/filter.lock"), other).unwrap();
    let failure = locked_filter(folder.path()).unwrap_err();
    assert_eq!(failure.diagnostics[0].code, "other-release");
    assert!(failure.diagnostics[0].help[0].contains("render --build"));
}
