//! The one task of a context: starts its worker when there is work, runs jobs in order, restarts what died, ends what is deleted.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pinfold_http::ws;
use pinfold_spawn::Sandbox;
use tokio::sync::{mpsc, watch};

use super::execution::{self, Ended};
use super::job::Job;
use super::worker::{Event, Worker};

pub(super) struct Owner {
    pub sandbox: Sandbox,
    pub directory: PathBuf,
    pub jobs: mpsc::Receiver<Job>,
    /// Turns to true, or is dropped, when the context is deleted.
    pub deleted: watch::Receiver<bool>,
    pub active: Arc<AtomicBool>,
    pub worker: Option<Worker>,
}

impl Owner {
    pub(super) async fn run(mut self) {
        let mut execution = 0;
        loop {
            let job = tokio::select! {
                biased;
                () = gone(&mut self.deleted) => break,
                how = idle(&mut self.worker) => {
                    tracing::info!(how, "an idle interpreter has ended; its next use starts it afresh");
                    self.lose().await;
                    continue;
                }
                job = self.jobs.recv() => match job {
                    Some(job) => job,
                    None => break,
                },
            };
            execution += 1;
            tokio::select! {
                biased;
                () = gone(&mut self.deleted) => {
                    job.reject(ws::GOING_AWAY, "the context was deleted");
                    break;
                }
                () = Self::execute(&self.sandbox, &self.directory, &mut self.worker, &self.active, execution, &job) => {}
            }
        }
        // Nothing can be queued from here on, so nothing can be forgotten.
        self.jobs.close();
        while let Ok(job) = self.jobs.try_recv() {
            job.reject(ws::POLICY, "the context was deleted");
        }
        self.active.store(false, Ordering::Release);
        if let Some(worker) = self.worker.take() {
            worker.stop().await;
        }
    }

    async fn execute(
        sandbox: &Sandbox,
        directory: &std::path::Path,
        worker: &mut Option<Worker>,
        active: &AtomicBool,
        execution: u64,
        job: &Job,
    ) {
        let started = match worker {
            Some(worker) => worker,
            None => match Worker::start(sandbox, directory).await {
                Ok(started) => {
                    active.store(true, Ordering::Release);
                    worker.insert(started)
                }
                Err(error) => {
                    let close = ws::close_frame(
                        ws::INTERNAL,
                        &format!("the interpreter could not be started: {error}"),
                    );
                    let _ = job.events.send(super::job::Event::Over(close)).await;
                    return;
                }
            },
        };
        if execution::run(started, execution, job).await == Ended::Lost {
            active.store(false, Ordering::Release);
            if let Some(lost) = worker.take() {
                lost.kill().await;
            }
        }
    }

    async fn lose(&mut self) {
        self.active.store(false, Ordering::Release);
        if let Some(lost) = self.worker.take() {
            lost.kill().await;
        }
    }
}

/// Resolves when the context is deleted.
async fn gone(deleted: &mut watch::Receiver<bool>) {
    let _ = deleted.wait_for(|deleted| *deleted).await;
}

/// Reads what a worker writes between executions to nowhere, so that its threads do not block; resolves when it has ended.
async fn idle(worker: &mut Option<Worker>) -> String {
    match worker {
        Some(worker) => loop {
            if let Event::Gone(how) = worker.next().await {
                return how;
            }
        },
        None => std::future::pending().await,
    }
}
