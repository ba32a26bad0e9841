//! Who descends from whom in one population.

/// The genealogy of a population over its lines of trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Lineage {
    /// Of each line, for each slot, where it is drawn among those of its line, from 0. No two lines of
    /// descent cross: children stand in the order of their parents.
    pub rank: Vec<Vec<usize>>,
    /// Of each slot of the last line, the slot at each line, first line first.
    pub paths: Vec<Vec<usize>>,
    /// Of each line after the first, the parent of each slot, a slot of the line before.
    pub parents: Vec<Vec<usize>>,
}

impl Lineage {
    /// From the ancestors of each line, which are the parents of the slots of the next, and the number of
    /// slots of each line. Ancestors are slots of their line, and as many as the next line has.
    pub fn new(ancestors: &[&[usize]], sizes: &[usize]) -> Lineage {
        let lines = sizes.len();
        let parents: Vec<Vec<usize>> =
            ancestors[..lines.saturating_sub(1)].iter().map(|slots| slots.to_vec()).collect();
        let mut rank: Vec<Vec<usize>> = sizes.first().map(|n| (0..*n).collect()).into_iter().collect();
        for of in &parents {
            let before = &rank[rank.len() - 1];
            let mut order: Vec<usize> = (0..of.len()).collect();
            order.sort_by_key(|slot| before[of[*slot]]);
            let mut ranks = vec![0; order.len()];
            order.iter().enumerate().for_each(|(place, slot)| ranks[*slot] = place);
            rank.push(ranks);
        }
        let path = |last: usize| {
            let mut path = vec![last];
            parents.iter().rev().for_each(|of| path.push(of[path[path.len() - 1]]));
            path.reverse();
            path
        };
        let paths = (0..sizes.last().copied().unwrap_or(0)).map(path).collect();
        Lineage { rank, paths, parents }
    }

    /// Distinct slots of the first line from which the last ones descend.
    pub fn roots(&self) -> usize {
        let mut roots: Vec<usize> = self.paths.iter().filter_map(|path| path.first().copied()).collect();
        roots.sort_unstable();
        roots.dedup();
        roots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_from_the_last_slots_to_the_first_and_never_cross() {
        // Slot 1 has all descendants but one; then the slots are exchanged.
        let ancestors: [&[usize]; 3] = [&[1, 2, 1], &[2, 1, 0], &[0, 1, 2]];
        let lineage = Lineage::new(&ancestors, &[3, 3, 3]);
        assert_eq!(lineage.paths, [[1, 2, 0], [2, 1, 1], [1, 0, 2]]);
        assert_eq!(lineage.roots(), 2);
        assert_eq!(lineage.rank, [[0, 1, 2], [0, 2, 1], [1, 2, 0]]);
        for (k, of) in lineage.parents.iter().enumerate() {
            for (a, b) in (0..3).flat_map(|a| (0..3).map(move |b| (a, b))) {
                let above = lineage.rank[k][of[a]] < lineage.rank[k][of[b]];
                assert!(!above || lineage.rank[k + 1][a] < lineage.rank[k + 1][b], "{k}: {a} and {b} cross");
            }
        }
    }

    #[test]
    fn a_thinned_population_and_one_of_a_single_line_have_their_paths() {
        let thinned = Lineage::new(&[&[3, 0], &[0, 1]], &[4, 2]);
        assert_eq!((thinned.paths, thinned.rank[1].clone()), (vec![vec![3, 0], vec![0, 1]], vec![1, 0]));
        assert_eq!(Lineage::new(&[&[0, 1]], &[2]).paths, [[0], [1]]);
        assert_eq!(Lineage::new(&[], &[]).paths, Vec::<Vec<usize>>::new());
    }
}
