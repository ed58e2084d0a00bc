//! `kill -9` after every change on the disk, in every verb that changes something; and two at once.

use std::collections::BTreeMap;
use std::io::BufRead as _;
use std::path::Path;

use meshward_builder::pki::ledger::Ledger;
use meshward_builder::pki::store::FolderStore;
use meshward_builder::pki::{renewal, rotate};
use time::{Duration, OffsetDateTime};

use super::support::{command, copy, fine, folder, run, said};

/// Two services whose leaves are due, or have long been.
fn aged(hours: i64) -> tempfile::TempDir {
    let folder = folder();
    fine(folder.path(), &["init-ca"]);
    fine(folder.path(), &["issue"]);
    age(folder.path(), hours);
    folder
}

/// Issues everything anew as of some hours ago. The CA is as old.
pub fn age(folder: &Path, hours: i64) {
    let past = OffsetDateTime::now_utc() - Duration::hours(hours);
    let mut store = FolderStore::open(&folder.join("certs"), &mut |_| ()).unwrap();
    let trust_domain = rotate::authority(&store).unwrap().trust_domain().unwrap();
    let place = meshward_builder::pki::authority::KeyPlace::default();
    let options = meshward_builder::pki::CaOptions::default();
    let authority = meshward_builder::pki::Authority::create(&trust_domain, &options, &place, past).unwrap();
    authority.save(&mut store).unwrap();
    let mut ledger = Ledger::load(&store).unwrap();
    let wanted = renewal::managed(&ledger).unwrap();
    let mut open = || authority.ca(None);
    renewal::reconcile(&mut store, &authority, &mut ledger, &wanted, &mut open, true, past).unwrap();
}

/// A leaf of one minute that is due within seconds.
pub fn short_lived(folder: &Path, service: &str) {
    let past = OffsetDateTime::now_utc() - Duration::seconds(27);
    let mut store = FolderStore::open(&folder.join("certs"), &mut |_| ()).unwrap();
    let authority = rotate::authority(&store).unwrap();
    let mut ledger = Ledger::load(&store).unwrap();
    let set = meshward_builder::pki::store::leaf_set(service);
    let mut request = ledger.managed[&set].request().unwrap();
    request.lifetime = Duration::minutes(1);
    let mut open = || authority.ca(None);
    let wanted = [(set, request)].into();
    renewal::reconcile(&mut store, &authority, &mut ledger, &wanted, &mut open, true, past).unwrap();
}

/// Certificate and key by the paths that a sidecar opens.
fn pairs(folder: &Path) -> BTreeMap<String, (String, String)> {
    let mut pairs = BTreeMap::new();
    for entry in std::fs::read_dir(folder.join("certs")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if let (Ok(certificate), Ok(key)) =
            (std::fs::read_to_string(path.join("tls.crt")), std::fs::read_to_string(path.join("tls.key")))
        {
            pairs.insert(name, (certificate, key));
        }
    }
    pairs
}

/// Kills the command at its first change, its second and so on, until it lives; and after each kill looks at what a pod
/// would see, then runs it again. Returns how many points there were.
fn kill_at_every_step(base: &Path, args: &[&str], trusted_meanwhile: bool) -> usize {
    kill_and_restore(base, args, trusted_meanwhile, || {})
}

/// The same, with something outside the folder to be put back before each run.
fn kill_and_restore(base: &Path, args: &[&str], trusted_meanwhile: bool, restore: impl Fn()) -> usize {
    for step in 1.. {
        restore();
        let folder = copy(base);
        let before = pairs(folder.path());
        let output =
            command(folder.path(), args).env("MESHWARD_TEST_ABORT_AT", step.to_string()).output().unwrap();
        if output.status.success() {
            return step - 1;
        }
        let words = said(&output);
        assert!(words.contains("aborted after"), "step {step} of {args:?} ended otherwise: {words}");
        let during = pairs(folder.path());
        for (set, (certificate, _)) in &before {
            assert!(during.contains_key(set), "step {step} of {args:?} lost {set} ({certificate}): {words}");
        }
        if trusted_meanwhile {
            // Chains, keys that fit, and that every bundle trusts every leaf, old and new.
            fine(folder.path(), &["verify"]);
        }
        // Again: nothing is lost, and the work gets done; unless it was done, and there is nothing to take back any more.
        let again = run(folder.path(), args);
        let done = said(&again).contains("error[no-rotation]");
        assert!(again.status.success() || done, "step {step} of {args:?}, again: {}", said(&again));
        fine(folder.path(), &["verify"]);
        let kept = pairs(folder.path());
        fine(folder.path(), &["renew"]);
        assert_eq!(pairs(folder.path()), kept, "after step {step} of {args:?} a further run changes nothing");
    }
    unreachable!("the loop ends when the command lives");
}

#[test]
fn renew_survives_a_kill_at_every_step() {
    let base = aged(20);
    assert_eq!(run(base.path(), &["needs-renewal"]).status.code(), Some(1));
    let steps = kill_at_every_step(base.path(), &["renew"], true);
    assert!(steps >= 20, "only {steps} points were passed; is the hook still in place?");
}

#[test]
fn the_first_issue_survives_a_kill_at_every_step() {
    let base = folder();
    fine(base.path(), &["init-ca"]);
    let steps = kill_at_every_step(base.path(), &["issue"], false);
    assert!(steps >= 20, "{steps}");
}

#[test]
fn every_phase_of_a_rotation_survives_a_kill_at_every_step() {
    let base = aged(1);
    let args = ["rotate-ca", "--settle", "0s"];
    for phase in ["adding", "switched", "stable"] {
        let steps = kill_at_every_step(base.path(), &args, true);
        assert!(steps >= 20, "{steps} points on the way to {phase}");
        fine(base.path(), &args);
        let status = fine(base.path(), &["rotate-ca", "--status"]);
        assert!(status.starts_with(phase), "{status}");
    }
}

/// From `switched` by `adding` to where it began.
#[test]
fn the_way_back_survives_a_kill_at_every_step() {
    let base = aged(1);
    let (on, back) = (["rotate-ca", "--settle", "0s"], ["rotate-ca", "--abort", "--settle", "0s"]);
    fine(base.path(), &on);
    fine(base.path(), &on);
    for phase in ["adding", "stable"] {
        let steps = kill_at_every_step(base.path(), &back, true);
        assert!(steps >= 10, "{steps} points on the way back to {phase}");
        fine(base.path(), &back);
        let status = fine(base.path(), &["rotate-ca", "--status"]);
        assert!(status.starts_with(phase), "{status}");
    }
}

#[test]
fn a_rotation_with_keys_elsewhere_survives_too_and_leaves_no_old_key() {
    let base = folder();
    let keys = tempfile::tempdir().unwrap();
    let place = keys.path().to_str().unwrap();
    fine(base.path(), &["init-ca", "--keys", place]);
    fine(base.path(), &["issue"]);
    assert!(!base.path().join("certs/service-mesh-ca/ca.key").exists());
    let args = ["rotate-ca", "--settle", "0s"];
    // The copies of the folder share the folder of keys.
    let kill = || {
        let saved = copy(keys.path());
        let restore = || {
            for entry in std::fs::read_dir(keys.path()).unwrap() {
                std::fs::remove_file(entry.unwrap().path()).unwrap();
            }
            for entry in std::fs::read_dir(saved.path()).unwrap() {
                let path = entry.unwrap().path();
                std::fs::copy(&path, keys.path().join(path.file_name().unwrap())).unwrap();
            }
        };
        kill_and_restore(base.path(), &args, true, restore);
        restore();
    };
    for _ in ["adding", "switched"] {
        kill();
        fine(base.path(), &args);
    }
    kill();
    let authority = rotate::authority(&FolderStore::peek(&base.path().join("certs"))).unwrap();
    let old = format!("cluster.local-{}.key", authority.other().unwrap().name());
    let new = format!("cluster.local-{}.key", authority.active().name());
    assert!(keys.path().join(&old).exists());
    // Killed between the new state and the removal of the key: whatever runs next removes it.
    let mut step = 1;
    while fine(base.path(), &["rotate-ca", "--status"]).starts_with("switched") {
        let output =
            command(base.path(), &args).env("MESHWARD_TEST_ABORT_AT", step.to_string()).output().unwrap();
        assert!(!output.status.success(), "the rotation ended without being killed after the switch");
        step += 1;
    }
    assert!(keys.path().join(&old).exists(), "the new state is in force, the old key not yet removed");
    fine(base.path(), &["renew"]);
    assert!(!keys.path().join(&old).exists(), "the old key is gone");
    assert!(keys.path().join(&new).exists());
    fine(base.path(), &["issue", "--force"]);
}

#[test]
fn revoke_survives_a_kill_at_every_step() {
    let base = aged(1);
    let steps = {
        let mut step = 1;
        loop {
            let folder = copy(base.path());
            let args = ["revoke", "bookapi"];
            let output = command(folder.path(), &args)
                .env("MESHWARD_TEST_ABORT_AT", step.to_string())
                .output()
                .unwrap();
            if output.status.success() {
                break step - 1;
            }
            // The other services go on; the same command again finishes.
            fine(folder.path(), &args);
            let list = std::fs::read(folder.path().join("certs/pgadmin-mtls-cert/ca.crl")).unwrap();
            let (_, list) = x509_parser::pem::parse_x509_pem(&list).unwrap();
            let (_, list) = x509_parser::parse_x509_crl(&list.contents).unwrap();
            assert_eq!(list.iter_revoked_certificates().count(), 1, "killed at step {step}");
            fine(folder.path(), &["renew"]);
            fine(folder.path(), &["verify"]);
            step += 1;
        }
    };
    assert!(steps >= 20, "{steps}");
}

#[test]
fn two_at_once_work_one_after_the_other() {
    let folder = aged(20);
    let children: Vec<_> = (0..6)
        .map(|_| {
            let mut command = command(folder.path(), &["renew", "-o", "json"]);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let mut issued = 0;
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let outcomes: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let outcomes = outcomes.as_array().unwrap();
        issued += outcomes.iter().filter(|outcome| outcome["action"] == "issued").count();
    }
    assert_eq!(issued, 2, "each leaf was renewed once");
    fine(folder.path(), &["verify"]);
}

#[test]
fn who_has_to_wait_says_for_whom_at_once() {
    let folder = aged(20);
    let first = FolderStore::open(&folder.path().join("certs"), &mut |_| ()).unwrap();
    let mut command = command(folder.path(), &["renew"]);
    let pipe = std::process::Stdio::piped;
    let mut second = command.stdout(pipe()).stderr(pipe()).spawn().unwrap();
    // While the first one is still at work.
    let mut line = String::new();
    std::io::BufReader::new(second.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let wanted = format!("another `meshward certs` (process {}) is at work in `certs`", std::process::id());
    assert!(line.starts_with("waiting, at most 30 s: ") && line.contains(&wanted), "{line}");
    drop(first);
    assert!(second.wait().unwrap().success());
    fine(folder.path(), &["verify"]);
}

#[test]
fn a_reader_never_sees_half_a_set() {
    let folder = aged(1);
    let path = folder.path().join("certs/bookapi-mtls-cert");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = std::collections::BTreeSet::new();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let files = meshward_builder::pki::folder::read(&path).unwrap().unwrap();
                let what = "tls.crt";
                let certificates =
                    meshward_builder::pki::pem::certificates(what, files.get("tls.crt").unwrap()).unwrap();
                let chain = meshward_builder::pki::verify::Chain { what, certificates: &certificates };
                assert!(chain.key("tls.key", files.get("tls.key").unwrap()).is_empty(), "a pair of two sets");
                seen.insert(files.get("tls.crt").unwrap().to_vec());
            }
            seen.len()
        });
        for _ in 0..25 {
            fine(folder.path(), &["issue", "--force"]);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let seen = reader.join().unwrap();
        assert!(seen > 3, "the reader saw {seen} versions");
    });
}
