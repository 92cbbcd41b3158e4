//! The proxy's end of the diagnostics stream: opened at the start, and again whenever it breaks, for as long as the proxy lives.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lorica_identity::rotation;
use lorica_model::story::Hop;
use lorica_xds::diagnostics::{self, Asked, Found, FromProxy, LookUp, MAX_MESSAGE, Said};
use lorica_xds::wire::Node;
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};
use tonic::Streaming;
use tonic::transport::Channel;

use super::taps::Terms;
use super::{Diagnostics, Question, json};

/// How much may wait for the connection.
const WAITING: usize = 16;
/// How long workers may take to remember.
const REMEMBERING: Duration = Duration::from_secs(1);
/// How long the control plane may take, at the end, to hear the last of it.
const LAST: Duration = Duration::from_millis(500);
/// The least time that a stream lasts which counts as one that worked.
const WORKED: Duration = Duration::from_secs(10);

/// Attends until nothing is left that could tell something: all workers have ended. `workers`: the same diagnostics, [`Diagnostics::untold`]; `node` says
/// who attends; `channel` leads to the control plane.
pub async fn attend(workers: Diagnostics, mut told: mpsc::Receiver<Said>, node: Node, channel: Channel) {
    let mut failures = 0;
    loop {
        let (said, says) = mpsc::channel(WAITING);
        // The channel is new: there is room.
        drop(said.try_send(from(Said::Node(node.clone()))));
        let begun = Instant::now();
        match diagnostics::attend(channel.clone(), says).await {
            Ok(asked) => {
                if stream(&workers, &mut told, said, asked).await {
                    return;
                }
                failures = if begun.elapsed() < WORKED { failures + 1 } else { 0 };
            }
            Err(error) => {
                failures += 1;
                tracing::debug!(error = %error.message(), failures, "the control plane is not attended");
            }
        }
        ask_all(&workers, &Question::EndTap(None));
        if told.is_closed() && told.is_empty() {
            return;
        }
        sleep(rotation::pause(failures.max(1), fastrand::f64())).await;
    }
}

fn from(said: Said) -> FromProxy {
    FromProxy { said: Some(said) }
}

/// Serves one stream. True: there is nothing to tell any more, and there never will be.
async fn stream(
    workers: &Diagnostics,
    told: &mut mpsc::Receiver<Said>,
    said: mpsc::Sender<FromProxy>,
    mut asked: Streaming<lorica_xds::diagnostics::FromControl>,
) -> bool {
    loop {
        tokio::select! {
            one = told.recv() => {
                let Some(one) = one else {
                    // It has been told all once it says nothing more itself.
                    drop(said);
                    let heard = async { while let Ok(Some(_)) = asked.message().await {} };
                    if timeout(LAST, heard).await.is_err() {
                        tracing::debug!("what was to be told last may not have arrived");
                    }
                    return true;
                };
                if said.send(from(one)).await.is_err() {
                    return false;
                }
            }
            question = asked.message() => match question {
                Ok(Some(question)) => {
                    if let Some(question) = question.asked {
                        take(workers, question, &said);
                    }
                }
                Ok(None) => return false,
                Err(error) => {
                    tracing::debug!(error = %error.message(), "the stream of diagnostics broke");
                    return false;
                }
            },
        }
    }
}

fn take(workers: &Diagnostics, question: Asked, said: &mpsc::Sender<FromProxy>) {
    match question {
        Asked::LookUp(asked) => drop(spawn_local(look_up(workers.workers(), asked, said.clone()))),
        Asked::Tap(tap) => match Terms::of(&tap, workers.workers().len(), Instant::now()) {
            Some(terms) => ask_all(workers, &Question::Tap(Arc::new(terms))),
            None => tracing::warn!(filter = tap.filter, "a tap has a condition that this proxy does not understand"),
        },
        Asked::EndTap(number) => ask_all(workers, &Question::EndTap(Some(number))),
    }
}

fn ask_all(workers: &Diagnostics, question: &Question) {
    for worker in workers.workers() {
        // One that has so much to answer is left out: nothing rests on it.
        drop(worker.try_send(question.clone()));
    }
}

/// Asks all workers, and answers with what they remember.
async fn look_up(workers: Vec<mpsc::Sender<Question>>, asked: LookUp, said: mpsc::Sender<FromProxy>) {
    let question = asked.question;
    let (answer, mut answers) = mpsc::channel::<Vec<Hop>>(workers.len().max(1));
    let asked = Arc::new(asked);
    for worker in workers {
        drop(worker.try_send(Question::LookUp(asked.clone(), answer.clone())));
    }
    drop(answer);
    let (mut hops, mut room) = (Vec::new(), MAX_MESSAGE / 2);
    let collecting = async {
        while let Some(found) = answers.recv().await {
            for hop in found {
                let hop = json(&hop);
                if let Some(left) = room.checked_sub(hop.len()) {
                    room = left;
                    hops.push(hop);
                }
            }
        }
    };
    if timeout(REMEMBERING, collecting).await.is_err() {
        tracing::debug!("a worker took too long to remember");
    }
    // A stream that broke is answered by nobody.
    drop(said.send(from(Said::Found(Found { question, hops }))).await);
}
