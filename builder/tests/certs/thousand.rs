//! A thousand services: certificates and manifests.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use meshward_builder::diagnostic::Source;
use meshward_builder::kube::{self, Filter, tree};
use meshward_builder::mesh;

use super::support::{command, fine, folder, said};

const SERVICES: usize = 1_000;

fn mesh_yaml() -> String {
    let mut text = String::from(
        "apiVersion: meshward.dev/v1alpha1\nkind: Mesh\nmetadata: {name: thousand}\nspec:\n  trustDomain: cluster.local\n  services:\n",
    );
    for number in 0..SERVICES {
        let calls: Vec<_> =
            [7, 31, 211].iter().map(|step| format!("s{}", (number + step) % SERVICES)).collect();
        writeln!(
            text,
            "    - {{name: s{number}, port: 8080, calls: [{}], container: {{image: \"example/s:1\"}}}}",
            calls.join(", ")
        )
        .unwrap();
    }
    text
}

/// Half a minute on two cores is what is allowed; in an unoptimised build, too.
#[test]
fn a_thousand_services_are_issued_and_rendered_in_time() {
    let folder = folder();
    let text = mesh_yaml();
    std::fs::write(folder.path().join("mesh.yaml"), &text).unwrap();
    fine(folder.path(), &["init-ca"]);
    let begin = Instant::now();
    let output = command(folder.path(), &["issue"]).output().unwrap();
    let said = said(&output);
    assert_eq!(said.matches("issued until").count(), SERVICES, "{said}");
    let issued = begin.elapsed();
    fine(folder.path(), &["verify"]);
    let verified = begin.elapsed();

    let (begin, busy) = (Instant::now(), on_cpu());
    let mesh = mesh::load_sources(&[Source::new("mesh.yaml", text)]).unwrap();
    let files = kube::render(&mesh, &Filter { sha256: "0".repeat(64), ..Filter::default() }).unwrap();
    tree::replace(&folder.path().join("deploy"), &files, None).unwrap();
    let (rendered, busy) = (begin.elapsed(), on_cpu() - busy);
    println!(
        "{SERVICES} services: issued in {issued:?}, verified by {verified:?}, rendered in {rendered:?} ({busy:?} of it on a processor)"
    );
    // Rendering has one thread: on a machine that does much else, what that thread got is what counts.
    assert!(issued + busy < Duration::from_secs(30), "issued in {issued:?}, rendered in {busy:?}");
}

/// What this thread has had of a processor; the kernel tells it (proc(5), `schedstat`).
fn on_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}
