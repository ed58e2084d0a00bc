//! How the module gets into a pod: from a ConfigMap, or out of an image for those who prefer a registry.
//!
//! Its content is pinned each way. The ConfigMap is named after the hash, and immutable. An image is named by its digest,
//! which the container runtime checks. The init container checks the module's sha256 beside that, and the pod does not
//! start when it is another one.

use super::Filter;
use super::types::{
    Capabilities, Container, SeccompProfile, SecurityContext, Volume, VolumeMount, VolumeSource,
};
use crate::envoy::pod;
use crate::mesh::is_pinned;
use crate::mesh::model::ResourcesSpec;

/// The volume with the module.
pub const VOLUME: &str = "meshward-filter";
/// The init container that copies the module.
pub const COPY: &str = "meshward-filter";

/// Where the module comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Distribution {
    /// The ConfigMap `meshward-filter-<sha12>`.
    #[default]
    ConfigMap,
    /// An image volume (Kubernetes 1.33 and later): the image is mounted as it is, nothing of it runs.
    Image(String),
    /// An init container that copies the module out of its image, which needs a shell and `sha256sum`.
    InitContainer(String),
}

/// The words for the three, on the command line and in `filter.lock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The ConfigMap `meshward-filter-<sha12>`, which `render` writes
    Configmap,
    /// An image volume (Kubernetes 1.33 and later)
    Image,
    /// An init container that copies the module out of an image, after it has checked its sha256
    InitContainer,
}

impl Distribution {
    /// What was asked for.
    ///
    /// # Errors
    /// An image that is missing, not wanted, or not pinned; in words.
    pub fn new(source: Source, image: Option<&str>) -> Result<Self, String> {
        let pinned = || match image {
            None => Err("an image of the filter is needed: name it with --filter-image".to_owned()),
            Some(image) if !is_pinned(image) => {
                Err(format!("`{image}` may become another image: pin it by its digest, as `name@sha256:…`"))
            }
            Some(image) => Ok(image.to_owned()),
        };
        match (source, image) {
            (Source::Configmap, None) => Ok(Self::ConfigMap),
            (Source::Configmap, Some(_)) => {
                Err("a ConfigMap holds the module itself: an image goes with `image` or `init-container`"
                    .to_owned())
            }
            (Source::Image, _) => pinned().map(Self::Image),
            (Source::InitContainer, _) => pinned().map(Self::InitContainer),
        }
    }

    /// The inverse of [`Self::new`].
    pub fn parts(&self) -> (Source, Option<&str>) {
        match self {
            Self::ConfigMap => (Source::Configmap, None),
            Self::Image(image) => (Source::Image, Some(image)),
            Self::InitContainer(image) => (Source::InitContainer, Some(image)),
        }
    }
}

/// The pod's volume with the module.
pub(crate) fn volume(filter: &Filter) -> Volume {
    let source = match &filter.distribution {
        Distribution::ConfigMap => VolumeSource::ConfigMap { name: filter.config_map() },
        Distribution::Image(reference) => {
            VolumeSource::Image { reference: reference.clone(), pull_policy: "IfNotPresent" }
        }
        Distribution::InitContainer(_) => VolumeSource::EmptyDir {},
    };
    Volume { name: VOLUME.to_owned(), source }
}

/// The container that brings the module before the others start.
pub(crate) fn init_container(filter: &Filter, user: u32) -> Option<Container> {
    let Distribution::InitContainer(image) = &filter.distribution else { return None };
    let (file, sha256) = (filter.file_name(), &filter.sha256);
    let folder = pod::FILTER;
    // It is checked where Envoy reads it, and has its name only then.
    let script = format!(
        "set -e; cp /{file} {folder}/new; echo '{sha256}  {folder}/new' | sha256sum -c -; mv {folder}/new {folder}/{file}"
    );
    let quantities = |memory: &str| [("memory".to_owned(), memory.to_owned())].into_iter().collect();
    Some(Container {
        name: COPY.to_owned(),
        image: image.clone(),
        command: vec!["sh".to_owned(), "-c".to_owned(), script],
        resources: Some(ResourcesSpec { requests: quantities("8Mi"), limits: quantities("64Mi") }),
        security_context: SecurityContext {
            allow_privilege_escalation: false,
            read_only_root_filesystem: true,
            run_as_non_root: true,
            run_as_user: Some(user),
            capabilities: Capabilities { drop: vec!["ALL"], ..Capabilities::default() },
            seccomp_profile: Some(SeccompProfile { kind: "RuntimeDefault" }),
        },
        volume_mounts: vec![VolumeMount {
            name: VOLUME.to_owned(),
            mount_path: folder.to_owned(),
            read_only: false,
        }],
        ..Container::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_pinned_or_refused() {
        let digest = "0123456789abcdef".repeat(4);
        let good = format!("registry.example/filter@sha256:{digest}");
        for source in [Source::Image, Source::InitContainer] {
            let made = Distribution::new(source, Some(&good)).unwrap();
            assert_eq!(made.parts(), (source, Some(good.as_str())));
            for bad in ["filter", "filter:1.0", "filter@sha256:12", &format!("@sha256:{digest}")] {
                assert!(Distribution::new(source, Some(bad)).unwrap_err().contains("digest"), "{bad}");
            }
            assert!(Distribution::new(source, None).is_err());
        }
        assert!(Distribution::new(Source::Configmap, Some(&good)).is_err());
        assert_eq!(Distribution::new(Source::Configmap, None), Ok(Distribution::ConfigMap));
    }

    /// The script does what it says, with the tools of this machine.
    #[test]
    fn the_init_container_refuses_another_module() {
        use sha2::{Digest as _, Sha256};
        let folder = tempfile::tempdir().unwrap();
        let (image, target) = (folder.path().join("image"), folder.path().join("target"));
        std::fs::create_dir(&image).unwrap();
        std::fs::create_dir(&target).unwrap();
        let sha256: String = Sha256::digest(b"module").iter().map(|byte| format!("{byte:02x}")).collect();
        let distribution = Distribution::InitContainer("x".to_owned());
        let filter = Filter { sha256, distribution };
        let script = init_container(&filter, 101).unwrap().command.pop().unwrap();
        let script = script
            .replace(pod::FILTER, &target.display().to_string())
            .replace("cp /", &format!("cp {}/", image.display()));
        let run = || std::process::Command::new("sh").args(["-c", &script]).output().unwrap().status;
        assert!(!run().success(), "there is no module");
        std::fs::write(image.join(filter.file_name()), b"another").unwrap();
        assert!(!run().success(), "it is another module");
        assert!(!target.join(filter.file_name()).exists());
        std::fs::write(image.join(filter.file_name()), b"module").unwrap();
        assert!(run().success());
        assert_eq!(std::fs::read(target.join(filter.file_name())).unwrap(), b"module");
    }
}
