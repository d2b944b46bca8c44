//! The walk back from a run, level by level.

use std::collections::{HashMap, HashSet};

use crate::{
    CommitId, ProjectId, RunId, VolumeId,
    api::{Provenance, ProvenanceEdge, ProvenanceNode, RunFile},
};

/// A graph has at most this many nodes.
pub const MAX_NODES: usize = 10_000;

/// What the walk needs to know of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFacts {
    /// Which run.
    pub id: RunId,
    /// Its project.
    pub project_id: ProjectId,
    /// That project's name; empty for a reader who may not see it.
    pub project: String,
    /// Its commit.
    pub commit: CommitId,
    /// The volume of that commit.
    pub volume: VolumeId,
    /// Its description, or its command.
    pub title: String,
    /// What it read, each at the version that was read.
    pub inputs: Vec<ReadFile>,
    /// What it wrote, in its own project's workspace.
    pub outputs: Vec<RunFile>,
    /// Where what it declared and what happened differ.
    pub conflicts: Vec<String>,
}

impl RunFacts {
    /// Leaves what a reader who may not see the project gets to know: that there was a run, and its ids.
    pub fn hide(&mut self) {
        self.project.clear();
        self.title.clear();
        self.inputs.clear();
        self.outputs.clear();
        self.conflicts.clear();
    }
}

/// A file that a run read, of whichever project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadFile {
    /// The name of the project whose workspace it is in.
    pub project: String,
    /// That workspace; the run's own for a file that was not found.
    pub volume: VolumeId,
    /// Path in it; `ds://...` as it was declared for another project's file that was not found.
    pub path: String,
    /// The commit in which this version of it was made, if it was found.
    pub commit: Option<CommitId>,
    /// The run that wrote that version, if one did.
    pub written_by: Option<RunId>,
}

/// Builds the graph of a run's provenance. It asks for facts, level by level, and does no I/O:
///
/// ```
/// use ds_domain::provenance::{RunFacts, Walk};
///
/// fn graph(run: ds_domain::RunId, facts: impl Fn(&[ds_domain::RunId]) -> Vec<RunFacts>) -> ds_domain::api::Provenance {
///     let mut walk = Walk::new(run);
///     loop {
///         let questions = walk.questions();
///         if questions.is_empty() {
///             return walk.finish();
///         }
///         walk.answer(facts(&questions));
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Walk {
    run: RunId,
    nodes: Vec<ProvenanceNode>,
    positions: HashMap<ProvenanceNode, usize>,
    edges: Vec<ProvenanceEdge>,
    /// The ends of `edges`; between two nodes there is one relation.
    joined: HashSet<(usize, usize)>,
    conflicts: Vec<String>,
    runs: HashMap<RunId, Visit>,
    questions: Vec<RunId>,
    limit: usize,
    truncated: bool,
}

/// How far the walk is with a run.
#[derive(Debug)]
enum Visit {
    /// Asked for; these files were written by it.
    Asked(Vec<usize>),
    /// Its position among the nodes.
    Known(usize),
}

impl Walk {
    /// Starts at a run.
    pub fn new(run: RunId) -> Self {
        Self::with_limit(run, MAX_NODES)
    }

    fn with_limit(run: RunId, limit: usize) -> Self {
        Self {
            run,
            nodes: Vec::new(),
            positions: HashMap::new(),
            edges: Vec::new(),
            joined: HashSet::new(),
            conflicts: Vec::new(),
            runs: HashMap::from([(run, Visit::Asked(Vec::new()))]),
            questions: vec![run],
            limit,
            truncated: false,
        }
    }

    /// The runs whose facts are needed next; empty when the walk is over. Each is asked for once.
    pub fn questions(&mut self) -> Vec<RunId> {
        let questions = std::mem::take(&mut self.questions);
        if self.truncated { Vec::new() } else { questions }
    }

    /// Takes the facts that [`Walk::questions`] asked for, in any order. A run that is left out (removed, or not for this
    /// person's eyes) ends the walk there.
    pub fn answer(&mut self, facts: Vec<RunFacts>) {
        for fact in facts {
            let Some(Visit::Asked(wrote)) = self.runs.get_mut(&fact.id) else { continue };
            let wrote = std::mem::take(wrote);
            self.add_run(fact, &wrote);
        }
    }

    /// The graph as far as it was walked.
    pub fn finish(self) -> Provenance {
        let Self { run, nodes, edges, conflicts, truncated, .. } = self;
        Provenance { run, nodes, edges, conflicts, truncated }
    }

    fn add_run(&mut self, fact: RunFacts, wrote: &[usize]) {
        let (project, title) = (fact.project.clone(), fact.title);
        let node = ProvenanceNode::Run { id: fact.id, project, commit: fact.commit, title };
        let Some(run) = self.node(node) else { return };
        self.runs.insert(fact.id, Visit::Known(run));
        self.conflicts.extend(fact.conflicts.iter().map(|text| format!("run {}: {text}", fact.id)));
        for &file in wrote {
            self.edge(file, run, "written_by");
        }
        for input in fact.inputs {
            let ReadFile { project, volume, path, commit, written_by } = input;
            let file = ProvenanceNode::File { project, volume, path, commit };
            let Some(file) = self.node(file) else { return };
            self.edge(run, file, "read");
            if let Some(writer) = written_by {
                self.written_by(file, writer);
            }
        }
        // What the asked run wrote belongs to its story; of the others, only what was read. A declared output that did not
        // change is an older commit's, and was written by somebody else.
        if fact.id == self.run {
            for output in fact.outputs.into_iter().filter(|output| output.commit == Some(fact.commit)) {
                let RunFile { path, commit, .. } = output;
                let project = fact.project.clone();
                let file = ProvenanceNode::File { project, volume: fact.volume, path, commit };
                let Some(file) = self.node(file) else { return };
                self.edge(file, run, "written_by");
            }
        }
    }

    /// Notes who wrote a file: with an edge if that run is there already, else by asking for it.
    fn written_by(&mut self, file: usize, writer: RunId) {
        match self.runs.get_mut(&writer) {
            Some(&mut Visit::Known(run)) => self.edge(file, run, "written_by"),
            Some(Visit::Asked(files)) => files.push(file),
            None => {
                self.runs.insert(writer, Visit::Asked(vec![file]));
                self.questions.push(writer);
            }
        }
    }

    /// The node's position; `None` if it is new and there is no room.
    fn node(&mut self, node: ProvenanceNode) -> Option<usize> {
        if let Some(&position) = self.positions.get(&node) {
            return Some(position);
        }
        if self.nodes.len() == self.limit {
            self.truncated = true;
            return None;
        }
        let position = self.nodes.len();
        self.positions.insert(node.clone(), position);
        self.nodes.push(node);
        Some(position)
    }

    fn edge(&mut self, from: usize, to: usize, relation: &str) {
        if self.joined.insert((from, to)) {
            self.edges.push(ProvenanceEdge { from, to, relation: relation.to_owned() });
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn id(n: u128) -> RunId {
        RunId(Uuid::from_u128(n))
    }

    fn read(path: &str, writer: Option<u128>) -> ReadFile {
        ReadFile {
            project: "p".into(),
            volume: VolumeId(Uuid::from_u128(7)),
            path: path.into(),
            commit: Some(CommitId(Uuid::from_u128(writer.unwrap_or(99)))),
            written_by: writer.map(id),
        }
    }

    fn wrote(path: &str, commit: u128) -> RunFile {
        RunFile { path: path.into(), commit: Some(CommitId(Uuid::from_u128(commit))), written_by: None }
    }

    fn fact(n: u128, inputs: &[(&str, Option<u128>)], outputs: &[&str]) -> RunFacts {
        RunFacts {
            id: id(n),
            project_id: ProjectId(Uuid::from_u128(8)),
            project: "p".into(),
            commit: CommitId(Uuid::from_u128(n)),
            volume: VolumeId(Uuid::from_u128(7)),
            title: format!("run {n}"),
            inputs: inputs.iter().map(|(path, writer)| read(path, *writer)).collect(),
            outputs: outputs.iter().map(|path| wrote(path, n)).collect(),
            conflicts: Vec::new(),
        }
    }

    fn graph(mut walk: Walk, facts: &[RunFacts]) -> (Provenance, usize) {
        let mut levels = 0;
        loop {
            let questions = walk.questions();
            if questions.is_empty() {
                return (walk.finish(), levels);
            }
            levels += 1;
            walk.answer(facts.iter().filter(|fact| questions.contains(&fact.id)).cloned().collect());
        }
    }

    fn edges(graph: &Provenance) -> Vec<String> {
        let name = |index: usize| match &graph.nodes[index] {
            ProvenanceNode::Run { title, .. } => title.clone(),
            ProvenanceNode::File { path, .. } => path.clone(),
        };
        graph
            .edges
            .iter()
            .map(|edge| format!("{} {} {}", name(edge.from), edge.relation, name(edge.to)))
            .collect()
    }

    #[test]
    fn the_walk_goes_back_over_files_to_the_runs_that_wrote_them() {
        let facts = [
            fact(1, &[("features", Some(2)), ("labels", None)], &["model"]),
            fact(2, &[("raw", Some(3))], &["features", "unread"]),
            fact(3, &[], &["raw"]),
        ];
        let (graph, levels) = graph(Walk::new(id(1)), &facts);
        assert_eq!(levels, 3);
        assert!(matches!(graph.nodes[0], ProvenanceNode::Run { id: first, .. } if first == id(1)));
        assert_eq!(
            edges(&graph),
            [
                "run 1 read features",
                "run 1 read labels",
                "model written_by run 1",
                "features written_by run 2",
                "run 2 read raw",
                "raw written_by run 3",
            ]
        );
        assert!(!graph.truncated);
    }

    #[test]
    fn a_diamond_is_walked_once_and_a_circle_ends() {
        let facts = [
            fact(1, &[("a", Some(2)), ("b", Some(3))], &[]),
            fact(2, &[("raw", Some(4))], &[]),
            fact(3, &[("raw", Some(4))], &[]),
            fact(4, &[("loop", Some(1))], &[]),
        ];
        let (graph, levels) = graph(Walk::new(id(1)), &facts);
        assert_eq!(levels, 3);
        assert_eq!(graph.nodes.len(), 8);
        assert_eq!(graph.edges.len(), 5 + 4);
    }

    #[test]
    fn an_output_that_did_not_change_was_not_written_by_the_run() {
        let mut asked = fact(1, &[("a", None)], &["model"]);
        asked.outputs.push(wrote("a", 99));
        let (graph, _) = graph(Walk::new(id(1)), &[asked]);
        assert_eq!(edges(&graph), ["run 1 read a", "model written_by run 1"]);
    }

    #[test]
    fn a_run_that_is_not_told_of_ends_the_walk_there() {
        let (graph, _) = graph(Walk::new(id(1)), &[fact(1, &[("a", Some(2))], &[])]);
        assert_eq!(edges(&graph), ["run 1 read a"]);
    }

    #[test]
    fn a_file_of_another_project_is_one_node_whoever_names_it() {
        let (volume, project) = (VolumeId(Uuid::from_u128(9)), "q".to_owned());
        let mut asked = fact(1, &[("x", Some(2)), ("y", Some(3))], &[]);
        asked.inputs[0] = ReadFile { project: project.clone(), volume, ..read("x", Some(2)) };
        let mut other = fact(3, &[("x", Some(2))], &[]);
        other.inputs[0].clone_from(&asked.inputs[0]);
        let writer = RunFacts { project, volume, ..fact(2, &[], &["x"]) };
        let (graph, _) = graph(Walk::new(id(1)), &[asked, writer, other]);
        assert_eq!(
            edges(&graph),
            ["run 1 read x", "run 1 read y", "x written_by run 2", "y written_by run 3", "run 3 read x"]
        );
    }

    #[test]
    fn a_hidden_run_is_there_without_what_it_did() {
        let mut hidden = fact(2, &[("raw", Some(3))], &["a"]);
        hidden.conflicts.push("secret".into());
        hidden.hide();
        let (graph, _) =
            graph(Walk::new(id(1)), &[fact(1, &[("a", Some(2))], &[]), hidden, fact(3, &[], &[])]);
        assert_eq!(edges(&graph), ["run 1 read a", "a written_by "]);
        assert_eq!((graph.nodes.len(), graph.conflicts.len()), (3, 0));
    }

    #[test]
    fn the_limit_holds_and_says_so() {
        let facts: Vec<_> = (1..100).map(|n| fact(n, &[("f", Some(n + 1))], &[])).collect();
        let (graph, _) = graph(Walk::with_limit(id(1), 10), &facts);
        assert_eq!(graph.nodes.len(), 10);
        assert!(graph.truncated);
    }
}
