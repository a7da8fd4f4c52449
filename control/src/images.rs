//! Images at runners: each is pulled or built once per runner, and everyone who needs it waits for the same job.
//!
//! A job's completion and the image's row are committed together. Waiters watch; they are registered before the job exists.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pinfold_proto::runner::job::{JobKind, JobStatus};
use pinfold_proto::runner::payload::{BuildSnapshot, PullSnapshot, SnapshotInfo};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::jobs::Jobs;
use crate::registries::Registries;
use crate::store::images::{self as table, Image, ImageState};
use crate::store::jobs::{self as job_table, JobRow};
use crate::store::{Result, Store, builds, json};
use crate::time::now;
use crate::token::hex;

/// How an image comes to a runner.
#[derive(Debug, Clone)]
pub(crate) enum Recipe {
    /// From a registry, or from the runner's own store.
    Pull(String),
    /// From a Dockerfile.
    Build(builds::Build),
    /// From a Dockerfile, and then on to our own registry under this name.
    Publish(builds::Build, String),
}

impl Recipe {
    /// The recipe for a Dockerfile: a single `FROM` is only a pull.
    pub(crate) fn of(dockerfile: &str, context_hashes: &[String]) -> Self {
        if let (Some(image), true) = (single_from(dockerfile), context_hashes.is_empty()) {
            return Self::Pull(image);
        }
        let at = now();
        Self::Build(builds::Build {
            reference: build_reference(dockerfile, context_hashes),
            dockerfile: dockerfile.to_owned(),
            context_hashes: context_hashes.to_vec(),
            created_at: at,
            last_used_at: at,
        })
    }

    /// The reference that runners know the image by.
    pub(crate) fn reference(&self) -> &str {
        match self {
            Self::Pull(image) => image,
            Self::Build(build) => &build.reference,
            Self::Publish(_, name) => name,
        }
    }
}

/// `daytona-<sha256 of the Dockerfile and the sorted context hashes>:daytona`.
pub(crate) fn build_reference(dockerfile: &str, context_hashes: &[String]) -> String {
    let mut sorted = context_hashes.to_vec();
    sorted.sort();
    let mut hasher = Sha256::new();
    hasher.update(dockerfile);
    sorted.iter().for_each(|hash| hasher.update(hash));
    format!("daytona-{}:daytona", hex(&hasher.finalize()))
}

/// The image of a Dockerfile that is nothing but `FROM <image>`.
pub(crate) fn single_from(dockerfile: &str) -> Option<String> {
    let mut lines =
        dockerfile.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (first, None) = (lines.next()?, lines.next()) else { return None };
    let mut words = first.split_whitespace();
    match (words.next()?, words.next()?, words.next()) {
        (from, image, None) if from.eq_ignore_ascii_case("from") && !image.starts_with('$') => {
            Some(image.to_owned())
        }
        _ => None,
    }
}

/// The entrypoint that a Dockerfile sets in exec form or shell form, last one wins; `CMD` if there is no `ENTRYPOINT`.
pub(crate) fn dockerfile_entrypoint(dockerfile: &str) -> Option<Vec<String>> {
    let joined = dockerfile.replace("\\\n", " ");
    let instruction = |name: &str| {
        let lines = joined.lines().map(str::trim);
        let mut matching = lines.filter_map(|line| {
            let (word, rest) = line.split_once(char::is_whitespace)?;
            word.eq_ignore_ascii_case(name).then(|| rest.trim().to_owned())
        });
        let mut last = None;
        for rest in matching.by_ref() {
            last = Some(rest);
        }
        last.map(|rest| {
            serde_json::from_str::<Vec<String>>(&rest)
                .unwrap_or_else(|_| vec!["/bin/sh".to_owned(), "-c".to_owned(), rest])
        })
    };
    match (instruction("ENTRYPOINT"), instruction("CMD")) {
        (Some(mut entrypoint), Some(cmd)) => {
            entrypoint.extend(cmd);
            Some(entrypoint)
        }
        (Some(only), None) | (None, Some(only)) => Some(only),
        (None, None) => None,
    }
}

type Key = (String, String);

/// All images.
#[derive(Debug, Clone)]
pub(crate) struct Images {
    store: Store,
    jobs: Jobs,
    registries: Registries,
    all: Arc<Mutex<HashMap<Key, watch::Sender<Image>>>>,
    builds: Arc<Mutex<HashMap<String, builds::Build>>>,
    /// One change at a time, so that two creates of the same image make one job.
    changing: Arc<tokio::sync::Mutex<()>>,
}

impl Images {
    /// Loads all images and recipes.
    pub(crate) async fn load(store: &Store, jobs: &Jobs, registries: &Registries) -> Result<Self> {
        let mut tx = store.begin().await?;
        let all = table::all(&mut tx).await?;
        let recipes = builds::all(&mut tx).await?;
        tx.commit().await?;
        let all = all
            .into_iter()
            .map(|image| ((image.runner_id.clone(), image.reference.clone()), watch::Sender::new(image)));
        Ok(Self {
            store: store.clone(),
            jobs: jobs.clone(),
            registries: registries.clone(),
            all: Arc::new(Mutex::new(all.collect())),
            builds: Arc::new(Mutex::new(recipes.into_iter().map(|b| (b.reference.clone(), b)).collect())),
            changing: Arc::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, watch::Sender<Image>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The recipe behind a built image.
    pub(crate) fn build(&self, reference: &str) -> Option<builds::Build> {
        self.builds.lock().unwrap_or_else(PoisonError::into_inner).get(reference).cloned()
    }

    /// The build contexts of recipes that were used since a time.
    pub(crate) fn contexts_since(&self, since: i64) -> std::collections::HashSet<String> {
        let all = self.builds.lock().unwrap_or_else(PoisonError::into_inner);
        let used = all.values().filter(|build| build.last_used_at >= since);
        used.flat_map(|build| build.context_hashes.iter().cloned()).collect()
    }

    /// Remembers a recipe.
    pub(crate) async fn remember(&self, build: &builds::Build) -> Result<()> {
        let mut tx = self.store.begin().await?;
        builds::put(&mut tx, build).await?;
        tx.commit().await?;
        let mut all = self.builds.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(build.reference.clone()).or_insert_with(|| build.clone()).last_used_at = build.last_used_at;
        Ok(())
    }

    /// Runners that have an image ready.
    pub(crate) fn holders(&self, reference: &str) -> Vec<String> {
        let all = self.lock();
        let ready =
            all.iter().filter(|((_, r), image)| r == reference && image.borrow().state == ImageState::Ready);
        ready.map(|((runner, _), _)| runner.clone()).collect()
    }

    /// Whether a runner has an image ready.
    pub(crate) fn ready(&self, runner: &str, reference: &str) -> bool {
        let key = (runner.to_owned(), reference.to_owned());
        self.lock().get(&key).is_some_and(|image| image.borrow().state == ImageState::Ready)
    }

    /// References that a runner should have.
    pub(crate) fn references(&self, runner: &str) -> Vec<String> {
        let all = self.lock();
        let mut references: Vec<String> =
            all.keys().filter(|(r, _)| r == runner).map(|(_, reference)| reference.clone()).collect();
        references.sort();
        references
    }

    /// Watches an image at a runner and, unless it is there or on its way, starts the job that brings it.
    pub(crate) async fn ensure(
        &self,
        runner: &str,
        recipe: &Recipe,
        org: &str,
    ) -> Result<watch::Receiver<Image>> {
        let _one = self.changing.lock().await;
        let key = (runner.to_owned(), recipe.reference().to_owned());
        let known = self.lock().get(&key).map(watch::Sender::subscribe);
        if let Some(known) = known.filter(|image| image.borrow().state != ImageState::Failed) {
            return Ok(known);
        }
        let job = self.job_for(runner, recipe, org);
        let image = Image {
            runner_id: runner.to_owned(),
            reference: recipe.reference().to_owned(),
            state: ImageState::Working,
            job_id: Some(job.id.clone()),
            error: None,
            size_gib: None,
            entrypoint: None,
            updated_at: now(),
        };
        let mut tx = self.store.begin().await?;
        table::put(&mut tx, &image).await?;
        job_table::insert(&mut tx, &job).await?;
        tx.commit().await?;
        let receiver = self.publish(image);
        self.jobs.wake(runner);
        Ok(receiver)
    }

    fn publish(&self, image: Image) -> watch::Receiver<Image> {
        let mut all = self.lock();
        match all.entry((image.runner_id.clone(), image.reference.clone())) {
            std::collections::hash_map::Entry::Occupied(entry) => {
                entry.get().send_replace(image);
                entry.get().subscribe()
            }
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(watch::Sender::new(image)).subscribe()
            }
        }
    }

    /// Notes that a runner has an image that came about otherwise, in the caller's transaction; publish the result after the commit.
    pub(crate) fn local(runner: &str, reference: &str, size_gib: f64) -> Image {
        Image {
            runner_id: runner.to_owned(),
            reference: reference.to_owned(),
            state: ImageState::Ready,
            job_id: None,
            error: None,
            size_gib: Some(size_gib),
            entrypoint: None,
            updated_at: now(),
        }
    }

    /// The runners that alone have an image; `None` when our own registry has it, or nobody does.
    pub(crate) fn only_at(&self, reference: &str, registries: &Registries) -> Option<Vec<String>> {
        Some(self.holders(reference)).filter(|holders| !registries.holds(reference) && !holders.is_empty())
    }

    /// Forgets an image whose row is gone.
    pub(crate) fn forget(&self, runner: &str, reference: &str) {
        self.lock().remove(&(runner.to_owned(), reference.to_owned()));
    }

    /// Makes a committed image known.
    pub(crate) fn note(&self, image: Image) {
        drop(self.publish(image));
    }

    /// Commits the end of an image's job together with what it means.
    pub(crate) async fn finished(&self, job: &JobRow) -> Result<()> {
        let _one = self.changing.lock().await;
        let key = (job.runner_id.clone(), job.resource_id.clone());
        let mut tx = self.store.begin().await?;
        job_table::update(&mut tx, job).await?;
        let mut outcome = None;
        match job.kind {
            JobKind::BuildSnapshot | JobKind::PullSnapshot => {
                let known = self.lock().get(&key).map(|image| image.borrow().clone());
                if let Some(image) = known.filter(|image| image.job_id.as_deref() == Some(&job.id)) {
                    let image = completed(image, job);
                    table::put(&mut tx, &image).await?;
                    outcome = Some(image);
                }
            }
            JobKind::RemoveSnapshot if job.status == JobStatus::Completed => {
                table::delete(&mut tx, &key.0, &key.1).await?;
            }
            _ => {}
        }
        tx.commit().await?;
        if let Some(image) = outcome {
            drop(self.publish(image));
        } else if job.kind == JobKind::RemoveSnapshot && job.status == JobStatus::Completed {
            self.lock().remove(&key);
        }
        Ok(())
    }

    fn job_for(&self, runner: &str, recipe: &Recipe, org: &str) -> JobRow {
        let build = |build: &builds::Build| BuildSnapshot {
            snapshot: build.reference.clone(),
            dockerfile: build.dockerfile.clone(),
            organization_id: org.to_owned(),
            context: build.context_hashes.clone(),
            source_registries: self.registries.sources(),
            ..BuildSnapshot::default()
        };
        let (kind, payload) = match recipe {
            Recipe::Pull(image) => (
                JobKind::PullSnapshot,
                json(&PullSnapshot {
                    snapshot: image.clone(),
                    registry: self.registries.of_image(image),
                    sandbox_class: Some("container".to_owned()),
                    ..PullSnapshot::default()
                }),
            ),
            Recipe::Build(recipe) => (JobKind::BuildSnapshot, json(&build(recipe))),
            Recipe::Publish(recipe, _) => {
                let own = self.registries.own();
                let pushed =
                    BuildSnapshot { push_to_internal_registry: true, registry: own, ..build(recipe) };
                (JobKind::BuildSnapshot, json(&pushed))
            }
        };
        JobRow::pending(runner, kind, "SNAPSHOT", recipe.reference(), Some(payload))
    }

    /// Asks every runner that has an image to remove it.
    pub(crate) async fn remove(&self, reference: &str) -> Result<()> {
        let _one = self.changing.lock().await;
        for runner in self.holders(reference) {
            let job = JobRow::pending(&runner, JobKind::RemoveSnapshot, "SNAPSHOT", reference, None);
            let mut tx = self.store.begin().await?;
            job_table::insert(&mut tx, &job).await?;
            table::delete(&mut tx, &runner, reference).await?;
            tx.commit().await?;
            self.lock().remove(&(runner.clone(), reference.to_owned()));
            self.jobs.wake(&runner);
        }
        Ok(())
    }
}

fn completed(mut image: Image, job: &JobRow) -> Image {
    image.job_id = None;
    image.updated_at = now();
    if job.status == JobStatus::Completed {
        let info: SnapshotInfo = job
            .result_metadata
            .as_deref()
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        image.state = ImageState::Ready;
        image.size_gib = (info.size_gb > 0.0).then_some(info.size_gb);
        image.entrypoint = info.entrypoint.or(info.cmd);
        image.error = None;
    } else {
        image.state = ImageState::Failed;
        image.error = Some(job.error_message.clone().unwrap_or_else(|| "failed without a reason".to_owned()));
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_from_is_a_pull() {
        assert_eq!(single_from("FROM python:3.12\n").as_deref(), Some("python:3.12"));
        assert_eq!(single_from("# base\n\nfrom a/b@sha256:0\n").as_deref(), Some("a/b@sha256:0"));
        for more in ["FROM a\nRUN b\n", "FROM a AS b\n", "FROM $A\n", "", "RUN a\n"] {
            assert_eq!(single_from(more), None, "{more:?}");
        }
    }

    #[test]
    fn build_references_agree_with_recorded_ones() {
        assert_eq!(
            build_reference("FROM alpine:3.20\n", &[]),
            "daytona-399c98da6fe3e39c63f902fdd192a6e931b60e2f4496dd6f1c2aee6fac62929c:daytona"
        );
        let (a, b) = ("a".to_owned(), "b".to_owned());
        assert_eq!(build_reference("F", &[a.clone(), b.clone()]), build_reference("F", &[b, a]));
    }

    #[test]
    fn entrypoints_are_read_from_dockerfiles() {
        let exec = "FROM a\nENTRYPOINT [\"/bin/sh\", \"-c\", \"sleep 9\"]\n";
        assert_eq!(dockerfile_entrypoint(exec).unwrap(), ["/bin/sh", "-c", "sleep 9"]);
        assert_eq!(dockerfile_entrypoint("FROM a\nCMD sleep 9").unwrap(), ["/bin/sh", "-c", "sleep 9"]);
        assert_eq!(dockerfile_entrypoint("FROM a\n"), None);
    }
}
