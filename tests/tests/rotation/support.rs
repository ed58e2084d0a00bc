//! The mesh of a test whose certificates `meshward certs` keeps, in the folders that its sidecars read.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use meshward_builder::local::certificates;
use meshward_builder::local::client::{Identity, Tls};
use meshward_builder::pki::authority::KeyPlace;
use meshward_builder::pki::folder::{self, Files};
use meshward_builder::pki::ledger::{Ledger, Reason};
use meshward_builder::pki::rotate::{Direction, Rotation};
use meshward_builder::pki::store::{LEAF_SUFFIX, MemoryStore, Store, leaf_set};
use meshward_builder::pki::{self, Authority, Ca, CaOptions, SvidRequest, renewal, revoke, svid};
use meshward_tests::{Connection, TestMesh, tools, until};
use rustls_pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

/// The CA in memory; what sidecars read in their folders.
#[derive(Default)]
struct SidecarStore {
    memory: MemoryStore,
    folders: BTreeMap<String, PathBuf>,
}

impl Store for SidecarStore {
    fn read(&self, name: &str) -> pki::Result<Option<Files>> {
        match self.folders.get(name) {
            Some(folder) => folder::read(folder),
            None => self.memory.read(name),
        }
    }

    fn write(&mut self, name: &str, files: &Files) -> pki::Result<()> {
        match self.folders.get(name) {
            Some(folder) => folder::replace(folder, files),
            None => self.memory.write(name, files),
        }
    }

    fn list(&self) -> pki::Result<Vec<String>> {
        let mut names = self.memory.list()?;
        names.extend(self.folders.keys().cloned());
        Ok(names)
    }

    fn location(&self, name: &str) -> String {
        name.to_owned()
    }
}

pub struct Certificates {
    store: RefCell<SidecarStore>,
}

impl Certificates {
    pub fn new(options: &CaOptions) -> Self {
        Self::made_at(options, OffsetDateTime::now_utc())
    }

    pub fn made_at(options: &CaOptions, now: OffsetDateTime) -> Self {
        let mut store = SidecarStore::default();
        let trust_domain = svid::trust_domain("test.example").unwrap();
        let authority = Authority::create(&trust_domain, options, &KeyPlace::default(), now).unwrap();
        authority.save(&mut store).unwrap();
        Self { store: RefCell::new(store) }
    }

    /// Starts the mesh with our certificates in place of the harness's own.
    pub fn start(&self, yaml: &str, edit: &dyn Fn(String) -> String) -> TestMesh {
        let edit = |service: &meshward_builder::mesh::Service, name: &str, text: String| {
            if name == "sds-trust.yaml" {
                // Where the sidecar will look.
                let folder = text.lines().find_map(|line| line.trim().strip_prefix("path: ")).unwrap();
                let folder = PathBuf::from(folder.trim_matches('"'));
                std::fs::remove_dir_all(&folder).unwrap();
                let set = leaf_set(&service.name);
                self.store.borrow_mut().folders.insert(set.clone(), folder);
                let trust_domain = svid::trust_domain("test.example").unwrap();
                let (namespace, account) = (&service.namespace, &service.service_account);
                let request =
                    SvidRequest::for_service(&trust_domain, namespace, account, &service.name).unwrap();
                self.reconcile(&[(set, request)].into(), false);
            }
            edit(text)
        };
        TestMesh::start_with(yaml, &tools::filter().unwrap(), 2, &edit).unwrap()
    }

    fn reconcile(&self, wanted: &BTreeMap<String, SvidRequest>, force: bool) {
        let store = &mut *self.store.borrow_mut();
        let authority = Authority::load(store).unwrap().unwrap();
        let mut ledger = Ledger::load(store).unwrap();
        let mut open = || authority.ca(None);
        let now = OffsetDateTime::now_utc();
        renewal::reconcile(store, &authority, &mut ledger, wanted, &mut open, force, now).unwrap();
    }

    /// What is due, or everything.
    pub fn issue_all(&self, force: bool) {
        let wanted = renewal::managed(&Ledger::load(&*self.store.borrow()).unwrap()).unwrap();
        self.reconcile(&wanted, force);
    }

    /// A phase of a rotation of the CA.
    pub fn step(&self, direction: Direction) {
        let store = &mut *self.store.borrow_mut();
        let now = OffsetDateTime::now_utc();
        Rotation { store, place: KeyPlace::default(), settle: Duration::ZERO, now }.step(direction).unwrap();
    }

    pub fn ca(&self) -> Ca {
        Authority::load(&*self.store.borrow()).unwrap().unwrap().ca(None).unwrap()
    }

    /// The root that issues now.
    pub fn root(&self) -> CertificateDer<'static> {
        self.ca().path().last().unwrap().clone()
    }

    pub fn federate(&self, trust_domain: &str, bundle: &serde_json::Value) {
        let store = &mut *self.store.borrow_mut();
        let mut authority = Authority::load(store).unwrap().unwrap();
        authority.federate(&svid::trust_domain(trust_domain).unwrap(), Some(bundle.clone())).unwrap();
        authority.save(store).unwrap();
    }

    /// Makes the revocation list anew.
    pub fn refresh_list(&self) {
        let store = &mut *self.store.borrow_mut();
        let mut authority = Authority::load(store).unwrap().unwrap();
        let mut ledger = Ledger::load(store).unwrap();
        revoke::refresh(&mut authority, &mut ledger, None, OffsetDateTime::now_utc()).unwrap();
        ledger.save(store).unwrap();
        authority.save(store).unwrap();
    }

    /// Revokes what a service has, and brings the list to everyone; the serial numbers.
    pub fn revoke(&self, service: &str, reason: Reason) -> Vec<String> {
        let serials = {
            let store = &mut *self.store.borrow_mut();
            let mut ledger = Ledger::load(store).unwrap();
            let now = OffsetDateTime::now_utc();
            let serials = revoke::mark(revoke::select(&mut ledger, service, now), reason, now);
            ledger.save(store).unwrap();
            serials
        };
        self.refresh_list();
        let store = &mut *self.store.borrow_mut();
        let authority = Authority::load(store).unwrap().unwrap();
        renewal::deliver_trust(store, &authority).unwrap();
        serials
    }

    /// Half of a certificate, swapped in as a whole set is.
    pub fn break_certificate(&self, service: &str) {
        let store = &mut *self.store.borrow_mut();
        let good = store.read(&leaf_set(service)).unwrap().unwrap();
        let mut broken = good.clone();
        let text = good.get("tls.crt").unwrap();
        broken.insert("tls.crt", &text[..text.len() / 3]);
        store.write(&leaf_set(service), &broken).unwrap();
    }

    /// Half of a certificate, written in place by something that knows no better, and then a move beside it that makes
    /// Envoy look.
    pub fn tear_certificate(&self, service: &str) {
        let folder = self.store.borrow().folders[&leaf_set(service)].clone();
        let file = folder.join("..data/tls.crt");
        let text = std::fs::read(&file).unwrap();
        std::fs::write(&file, &text[..text.len() / 3]).unwrap();
        std::fs::write(folder.join(".moved"), "").unwrap();
        std::fs::rename(folder.join(".moved"), folder.join(".beside")).unwrap();
    }

    /// The certificate and key of a service.
    pub fn identity(&self, service: &str) -> Identity {
        let folder = self.store.borrow().folders[&format!("{service}{LEAF_SUFFIX}")].clone();
        certificates::read_identity(&folder).unwrap()
    }

    /// A connection from one service to another, without the caller's sidecar.
    pub fn connect(
        &self,
        running: &TestMesh,
        from: &str,
        to: &str,
    ) -> Connection<impl std::io::Read + std::io::Write + use<>> {
        let id = running.mesh.spiffe_id(running.mesh.service(to).unwrap());
        let tls = Tls::new(&self.root(), &id, Some(self.identity(from))).unwrap();
        Connection::new(tls.connect(running.inbound(to)).unwrap())
    }

    /// One request on a connection of its own: the status, or how the connection was refused.
    pub fn try_connect(&self, running: &TestMesh, identity: Identity, to: &str) -> std::io::Result<u16> {
        let id = running.mesh.spiffe_id(running.mesh.service(to).unwrap());
        let tls = Tls::new(&self.root(), &id, Some(identity)).unwrap();
        let stream = tls.connect(running.inbound(to))?;
        Connection::new(stream).get(to, "/a").map(|(status, _)| status)
    }
}

/// How often each sidecar has taken over certificates or trust.
pub fn updates(running: &TestMesh) -> Vec<u64> {
    let count = |name: &str| running.counter(name, &["ssl_context_update_by_sds"]);
    running.mesh.services.iter().map(|service| count(&service.name)).collect()
}

/// Until each sidecar has taken over something since, and no more comes.
pub fn until_updated(running: &TestMesh, before: &[u64]) {
    let mut last = updates(running);
    let mut quiet_since = std::time::Instant::now();
    until("the new certificates in every sidecar", || {
        let now = updates(running);
        if now != last {
            last = now;
            quiet_since = std::time::Instant::now();
        }
        let all = last.iter().zip(before).all(|(now, before)| now > before);
        all && quiet_since.elapsed() > std::time::Duration::from_millis(400)
    })
    .unwrap();
}
