//! `optimize`: a black box that may be asked a limited number of times (docs/spec.md 8). Each round draws
//! pictures guided by a surrogate of the black box, asks it about them, and learns from all answers so far.
//! Every query is recorded as it is answered, and the same command goes on where it was stopped, to the same
//! bytes.

mod design;
mod figure;
mod line;
mod report;
mod rounds;
mod table;

use std::collections::BTreeMap;
use std::fs;

use super::args::Optimize;
use super::experiment::{self, OPTIMISATION, RUNS, claim, unusable};
use super::progress::Progress;
use super::{compare, meaning, output, signals};
use crate::error::Result;
use crate::pixels::Picture;
use crate::run::{Lines, lock, write_atomic};
use design::{Design, Query};
use line::{Line, embedding};
use report::Report;
use rounds::{Embeddings, Rounds};

/// What a folder holds.
const WHAT: &str = "optimisation";

/// The command, which was `typed` so.
///
/// # Errors
/// Of the options, the model, the black box, the output directory;
/// [`ErrorKind::Numerical`](crate::ErrorKind::Numerical) for an answer that is no finite number;
/// [`ErrorKind::Interrupted`](crate::ErrorKind::Interrupted) after a signal, with every answer kept.
pub fn run(args: &Optimize, typed: &[String]) -> Result<()> {
    let folder = &args.output;
    signals::listen(format!("stopping; what is finished is kept in {}", folder.display()));
    let mut design = Design::resolve(args)?;
    let mut session = design.builder.clone().open()?;
    // A tower that is none is refused before anything is drawn.
    let width = embedding(&session, &Picture::new(8, 8, vec![0; 3 * 8 * 8]))?.len();
    let mut black_box = design.settle(&session)?;
    let prompts: Vec<_> = (0..design.prompt_count()).filter_map(|i| design.given(i).cloned()).collect();
    meaning::unused_embeddings(&session, &prompts).iter().for_each(output::note);
    fs::create_dir_all(folder).map_err(|e| unusable(folder, e))?;
    let _lock = lock(folder)?;
    claim(folder, OPTIMISATION, WHAT, &design.record(), typed)?;
    let path = folder.join(RUNS);
    let lines = experiment::read(&path, WHAT, |line: &Line| line.belongs_to(&design), Line::key)?;
    compare::missing_pictures(folder, lines.iter().map(|line| &*line.picture));
    let mut known: BTreeMap<String, Line> = lines.into_iter().map(|line| (line.key(), line)).collect();
    let mut file = Lines::append(&path)?;
    let mut seen = Embeddings::new();
    let of_each = design.queries + design.evaluate;
    let total = of_each * design.strategies.len() * design.seeds.len();
    let progress = Progress::new(total as u64, args.cases.quiet);
    for &seed in &design.seeds {
        for &strategy in &design.strategies {
            let queries = design.queries_of(strategy, seed);
            // The number of rounds whose surrogate is at hand, and that surrogate.
            let mut current = None;
            for query in &queries {
                if known.contains_key(&key(query)) {
                    progress.skip(1);
                    continue;
                }
                let left = total - known.len();
                if signals::requested().is_some() {
                    return Err(experiment::stopped(left));
                }
                let rounds = query.round.unwrap_or(design.rounds(strategy).len());
                let pairs = design.pairs(strategy, rounds);
                if !design.is_plain(query)
                    && current.as_ref().is_none_or(|(of, _)| *of != (pairs, query.round.is_none()))
                {
                    let own: Vec<&Line> =
                        queries.iter().take(pairs).filter_map(|query| known.get(&key(query))).collect();
                    let at = Rounds {
                        session: &session,
                        design: &design,
                        folder,
                        progress: &progress,
                        width,
                        left,
                    };
                    let surrogate = at.surrogate(strategy, seed, rounds, &own, &mut seen)?;
                    // What is hoped for is for finding out; an evaluation follows what is known.
                    design.shared.set(Some(surrogate.clone()), query.round.is_some());
                    current = Some(((pairs, query.round.is_none()), surrogate));
                }
                let surrogate = current.as_ref().filter(|_| !design.is_plain(query)).map(|(_, s)| &**s);
                let twin = design
                    .is_plain(query)
                    .then(|| {
                        let twins =
                            design.strategies.iter().map(|other| Query { strategy: *other, ..*query });
                        twins
                            .filter(|twin| design.is_plain(twin))
                            .find_map(|twin| known.get(&key(&twin)).cloned())
                    })
                    .flatten();
                let line = line::ask(
                    &mut session,
                    &mut black_box,
                    &design,
                    query,
                    surrogate,
                    twin.as_ref(),
                    folder,
                )?;
                file.push(&line)?;
                let round = query.round.map_or("evaluation".into(), |round| format!("round {round}"));
                progress.step(&format!("{} seed {seed}  {round}  answer {:.3}", line.strategy, line.answer));
                known.insert(key(query), line);
            }
            // The last round is learned from too.
            if strategy.learns() {
                let own: Vec<&Line> = queries.iter().filter_map(|query| known.get(&key(query))).collect();
                let left = total - known.len();
                let at =
                    Rounds { session: &session, design: &design, folder, progress: &progress, width, left };
                at.all(strategy, seed, &own, &mut seen)?;
            }
        }
    }
    drop(progress);
    let report = Report::new(&design, &known, folder)?;
    let scene = figure::scene(&report);
    write_atomic(&folder.join("figure.svg"), scene.svg().as_bytes())?;
    write_atomic(&folder.join("figure.png"), &scene.picture().png()?)?;
    let table = table::markdown(&report, typed);
    experiment::write_table(folder, &table, &table::csv(&report)?, &table::json(&report, typed))?;
    output::line(if args.json { table::json(&report, typed) } else { table.trim_end().to_string() })
}

fn key(query: &Query) -> String {
    line::key(query.strategy.name(), query.seed, query.number)
}
