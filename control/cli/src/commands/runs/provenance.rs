//! `ds runs provenance`, for people: the graph as an indented tree.
//!
//! A file of the asked run's project is named by its path, one of another project as `project:path@commit`.

use std::fmt::Write as _;

use ds_domain::{
    api::{Provenance, ProvenanceEdge, ProvenanceNode},
    record::FileReference,
};

use super::foreign_name;
use crate::output::text;

/// The tree of a run, what it read, who wrote that, and so on; then what it wrote itself, and the conflicts. A part that was shown already is named
/// and not shown again, so that every part is there once and a circle ends.
pub(super) fn tree(provenance: &Provenance) -> String {
    let mut out = String::new();
    let mut shown = vec![false; provenance.nodes.len()];
    let mut children = vec![Vec::new(); provenance.nodes.len()];
    for edge in &provenance.edges {
        if edge.to < provenance.nodes.len()
            && let Some(list) = children.get_mut(edge.from)
        {
            list.push((edge.to, edge.relation.as_str()));
        }
    }
    let home = match provenance.nodes.first() {
        Some(ProvenanceNode::Run { project, .. }) => project.as_str(),
        _ => "",
    };
    // A stack of its own: a chain of runs may be longer than the thread's stack is deep.
    let mut open = Vec::new();
    if !provenance.nodes.is_empty() {
        open.push(Branch { node: 0, relation: "", lead: String::new(), indent: String::new() });
    }
    while let Some(branch) = open.pop() {
        let again = std::mem::replace(&mut shown[branch.node], true) && !children[branch.node].is_empty();
        let note = if again { " (see above)" } else { "" };
        let label = label(&provenance.nodes[branch.node], branch.relation, home);
        writeln!(out, "{}{}{note}", branch.lead, text::plain(&label))
            .expect("a String takes all that is written");
        if !again {
            open.extend(below(&branch, &children[branch.node]));
        }
    }
    for output in written(provenance) {
        writeln!(out, "wrote {}", text::plain(&label(output, "", home)))
            .expect("a String takes all that is written");
    }
    for conflict in &provenance.conflicts {
        writeln!(out, "! {}", text::plain(conflict)).expect("a String takes all that is written");
    }
    if provenance.truncated {
        out.push_str("(there is more: only the nearest 10,000 are shown)\n");
    }
    out.truncate(out.trim_end().len());
    out
}

/// The versions of files that the asked run wrote.
fn written(provenance: &Provenance) -> impl Iterator<Item = &ProvenanceNode> {
    let by_asked = |edge: &&ProvenanceEdge| edge.to == 0 && edge.relation == "written_by";
    provenance.edges.iter().filter(by_asked).filter_map(|edge| provenance.nodes.get(edge.from))
}

/// A line still to be written.
struct Branch<'a> {
    node: usize,
    relation: &'a str,
    /// What stands before it on its line, and before the lines below it.
    lead: String,
    indent: String,
}

/// The branches below `parent`, the last first, as a stack takes them.
fn below<'a>(parent: &Branch<'a>, children: &[(usize, &'a str)]) -> Vec<Branch<'a>> {
    let last = children.len().saturating_sub(1);
    let branch = |(index, &(node, relation)): (usize, &(usize, &'a str))| {
        let (corner, bar) = if index == last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        Branch {
            node,
            relation,
            lead: format!("{}{corner}", parent.indent),
            indent: format!("{}{bar}", parent.indent),
        }
    };
    children.iter().enumerate().map(branch).rev().collect()
}

/// `home` is the project of the asked run.
fn label(node: &ProvenanceNode, relation: &str, home: &str) -> String {
    let relation = match relation {
        "" => String::new(),
        "written_by" => "written by ".into(),
        other => format!("{other} "),
    };
    match node {
        ProvenanceNode::Run { id, project, .. } if project.is_empty() => {
            format!("{relation}run {} of a project that you may not see", text::short(id))
        }
        ProvenanceNode::Run { id, project, commit, title } => {
            let title = if title.is_empty() { String::new() } else { format!("  {}", text::excerpt(title)) };
            format!("{relation}run {} in {project} @ {}{title}", text::short(id), text::short(commit))
        }
        ProvenanceNode::File { project, path, commit: Some(commit), .. }
            if project != home && !project.is_empty() =>
        {
            format!("{relation}{}", foreign_name(project, path, *commit))
        }
        ProvenanceNode::File { path, commit: Some(commit), .. } => {
            format!("{relation}{path} @ {}", text::short(commit))
        }
        ProvenanceNode::File { path, commit: None, .. } if FileReference::is_meant_by(path) => {
            format!("{relation}{path} (not found)")
        }
        ProvenanceNode::File { path, commit: None, .. } => format!("{relation}{path} (in no commit)"),
    }
}

#[cfg(test)]
mod tests {
    use ds_domain::{CommitId, RunId, VolumeId};
    use uuid::Uuid;

    use super::*;

    fn run(n: u128, title: &str) -> ProvenanceNode {
        let (id, commit) = (RunId(Uuid::from_u128(n << 96)), CommitId(Uuid::from_u128(n << 100)));
        ProvenanceNode::Run { id, project: "digits".into(), commit, title: title.into() }
    }

    fn file(path: &str, commit: Option<u128>) -> ProvenanceNode {
        let commit = commit.map(|n| CommitId(Uuid::from_u128(n << 96)));
        ProvenanceNode::File {
            project: "digits".into(),
            volume: VolumeId(Uuid::nil()),
            path: path.into(),
            commit,
        }
    }

    fn edge(from: usize, to: usize) -> ProvenanceEdge {
        let relation = if from.is_multiple_of(2) { "read" } else { "written_by" };
        ProvenanceEdge { from, to, relation: relation.into() }
    }

    fn provenance(nodes: Vec<ProvenanceNode>, edges: Vec<ProvenanceEdge>) -> Provenance {
        let conflicts = vec!["model.pkl is a declared output, but it did not change".into()];
        Provenance { run: RunId(Uuid::nil()), nodes, edges, conflicts, truncated: false }
    }

    #[test]
    fn a_tree_shows_each_part_once_with_its_conflicts() {
        let nodes = vec![
            run(1, "python train.py"),
            file("train.csv", Some(2)),
            run(2, "python prepare.py"),
            file("raw.csv", None),
            file("model.pkl", Some(1)),
            run(3, ""),
        ];
        let mut edges = vec![edge(0, 1), edge(0, 3), edge(1, 2), edge(2, 3), edge(2, 1)];
        edges.push(ProvenanceEdge { from: 4, to: 0, relation: "written_by".into() });
        let expected = "\
run 00000001 in digits @ 00000010  python train.py
├─ read train.csv @ 00000002
│  └─ written by run 00000002 in digits @ 00000020  python prepare.py
│     ├─ read raw.csv (in no commit)
│     └─ read train.csv @ 00000002 (see above)
└─ read raw.csv (in no commit)
wrote model.pkl @ 00000001
! model.pkl is a declared output, but it did not change";
        assert_eq!(tree(&provenance(nodes, edges)), expected);
    }

    #[test]
    fn other_projects_are_named_and_hidden_ones_are_not() {
        let mut foreign = file("x.csv", Some(2));
        let ProvenanceNode::File { project, .. } = &mut foreign else { unreachable!() };
        *project = "prices".into();
        let mut hidden = run(2, "");
        let ProvenanceNode::Run { project, .. } = &mut hidden else { unreachable!() };
        project.clear();
        let nodes = vec![run(1, "train"), foreign, hidden, file("ds://gone/y", None)];
        let expected = "\
run 00000001 in digits @ 00000010  train
├─ read prices:x.csv@00000002
│  └─ written by run 00000002 of a project that you may not see
└─ read ds://gone/y (not found)";
        let told = tree(&provenance(nodes, vec![edge(0, 1), edge(0, 3), edge(1, 2)]));
        assert!(told.starts_with(expected), "{told}");
    }

    #[test]
    fn a_long_chain_and_a_wrong_edge_do_no_harm() {
        let nodes = (0..2_000).map(|n| run(n, "")).collect();
        let edges = (0..2_000).map(|n| edge(n, n + 1)).chain([edge(9_999, 0)]).collect();
        assert_eq!(tree(&provenance(nodes, edges)).lines().count(), 2_001);
        assert!(tree(&provenance(Vec::new(), Vec::new())).starts_with('!'));
    }
}
