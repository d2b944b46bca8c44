//! Recording runs: calls that wait for their turn are written in one transaction.
//!
//! A transaction waits for the disk. When many record a run each at the same time, whoever has its turn takes along what
//! the others handed in meanwhile, and all of them are answered once it is durable.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
};

use ds_domain::{ProjectId, RunId, api::Run};
use tokio::sync::oneshot;

use crate::{
    Db, Error, Result,
    run_write::{insert_runs, known_runs},
};

/// Runs in one call, and about as many in one transaction.
const MAX_RUNS: usize = 1000;

/// What waits to be recorded; as much as there are callers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recording {
    waiting: Arc<Mutex<VecDeque<Call>>>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// The runs of one caller.
#[derive(Debug)]
struct Call {
    runs: Vec<Run>,
    answer: oneshot::Sender<Result<Vec<RunId>>>,
}

impl Recording {
    fn hand_in(&self, runs: &[Run]) -> oneshot::Receiver<Result<Vec<RunId>>> {
        let (answer, answered) = oneshot::channel();
        let call = Call { runs: runs.to_vec(), answer };
        self.waiting.lock().expect("nothing panics while it holds this").push_back(call);
        answered
    }

    /// The oldest calls, as many as fit into a transaction. Those whose callers went away are left out.
    fn take(&self) -> Vec<Call> {
        let mut waiting = self.waiting.lock().expect("nothing panics while it holds this");
        let (mut taken, mut runs) = (Vec::new(), 0);
        while let Some(call) = waiting.pop_front_if(|call| runs == 0 || runs + call.runs.len() <= MAX_RUNS) {
            if !call.answer.is_closed() {
                runs += call.runs.len();
                taken.push(call);
            }
        }
        taken
    }
}

impl Db {
    /// Records runs on commits that exist, all or none; returns the ids that are new. At most 1,000. A run id that is
    /// recorded already keeps its first record; one that is another project's is a conflict.
    pub async fn record_runs(&self, runs: &[Run]) -> Result<Vec<RunId>> {
        if runs.len() > MAX_RUNS {
            return Err(Error::Invalid(format!("{} runs at once: send at most {MAX_RUNS}", runs.len())));
        }
        loop {
            let mut answered = self.recording().hand_in(runs);
            let turn = tokio::select! {
                biased;
                answer = &mut answered => Err(answer),
                turn = self.recording().turn.lock() => Ok(turn),
            };
            let answer = match turn {
                Err(answer) => answer,
                Ok(_turn) => {
                    self.record(self.recording().take()).await;
                    answered.await
                }
            };
            // Without an answer, the caller that took ours along went away half-way. Repeating records nothing twice.
            if let Ok(answer) = answer {
                return answer;
            }
        }
    }

    async fn record(&self, calls: Vec<Call>) {
        let together: Vec<&[Run]> = calls.iter().map(|call| &call.runs[..]).collect();
        // What one of them is refused for must not keep the others from being recorded.
        let answers = match self.record_in_one(&together).await {
            Ok(answers) => answers,
            Err(error) if calls.len() == 1 => vec![Err(error)],
            Err(_) => {
                let mut answers = Vec::with_capacity(calls.len());
                for call in together {
                    let answer = self.record_in_one(&[call]).await;
                    answers.push(answer.and_then(|mut answers| answers.remove(0)));
                }
                answers
            }
        };
        for (call, answer) in calls.into_iter().zip(answers) {
            // Nobody waits for it any more.
            let _ = call.answer.send(answer);
        }
    }

    async fn record_in_one(&self, calls: &[&[Run]]) -> Result<Vec<Result<Vec<RunId>>>> {
        let mut tx = self.begin().await?;
        let ids: Vec<RunId> = calls.iter().copied().flatten().map(|run| run.id).collect();
        let mut known = known_runs(&mut tx, &ids).await?;
        let (mut new, mut answers) = (Vec::with_capacity(ids.len()), Vec::with_capacity(calls.len()));
        for call in calls {
            let recorded = unknown(call, &mut known);
            answers.push(recorded.map(|runs| {
                new.extend_from_slice(&runs);
                runs.iter().map(|run| run.id).collect()
            }));
        }
        insert_runs(&mut tx, &new).await?;
        tx.commit().await?;
        Ok(answers)
    }
}

/// Those of a call's runs that are new. They are known from now on.
fn unknown<'r>(runs: &'r [Run], known: &mut HashMap<RunId, ProjectId>) -> Result<Vec<&'r Run>> {
    if let Some(taken) = runs.iter().find(|run| known.get(&run.id).is_some_and(|of| *of != run.project)) {
        return Err(Error::Conflict(format!("another project has a run {}: choose a new id", taken.id)));
    }
    Ok(runs.iter().filter(|run| known.insert(run.id, run.project).is_none()).collect())
}
