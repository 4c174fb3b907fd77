//! Explores everything that can happen by some rules, for tests: that no promise is ever broken, and that all becomes
//! whole again when no further fault happens.

use std::fmt::Debug;
use std::hash::Hash;

use rustc_hash::FxHashMap;

/// Everything that decides what happens next, by rules of which a test may break one.
pub(crate) trait World: Clone + Debug + Eq + Hash {
    type Rules;

    /// The promise that is broken here.
    fn broken(&self) -> Option<&'static str>;
    /// What one step leads to, without a fault. An error names a promise that the step breaks.
    fn steps(&self, rules: &Self::Rules) -> Result<Vec<Self>, String>;
    /// What one fault leads to.
    fn faults(&self, rules: &Self::Rules) -> Vec<Self>;
    /// Nothing is left to be done.
    fn is_whole(&self) -> bool;
}

/// Returns how many worlds it has seen, or which one breaks a promise.
pub(crate) fn explore<W: World>(start: W, rules: &W::Rules) -> Result<usize, String> {
    let mut numbers = FxHashMap::from_iter([(start.clone(), 0)]);
    let mut worlds = vec![start];
    let mut before: Vec<Vec<usize>> = vec![Vec::new()];
    let mut at = 0;
    while at < worlds.len() {
        let world = worlds[at].clone();
        if let Some(broken) = world.broken() {
            return Err(format!("{broken}: {world:?}"));
        }
        let steps = world.steps(rules)?;
        let count = steps.len();
        for (number, next) in steps.into_iter().chain(world.faults(rules)).enumerate() {
            let known = *numbers.entry(next).or_insert_with_key(|next| {
                worlds.push(next.clone());
                before.push(Vec::new());
                worlds.len() - 1
            });
            if number < count {
                before[known].push(at);
            }
        }
        at += 1;
    }
    // Those that can become whole are found backwards from those that are.
    let mut todo: Vec<usize> = (0..worlds.len()).filter(|at| worlds[*at].is_whole()).collect();
    let mut heals = vec![false; worlds.len()];
    todo.iter().for_each(|at| heals[*at] = true);
    while let Some(at) = todo.pop() {
        todo.extend(before[at].iter().filter(|earlier| !std::mem::replace(&mut heals[**earlier], true)));
    }
    match heals.iter().position(|heals| !heals) {
        Some(at) => Err(format!("never whole again: {:?}", worlds[at])),
        None => Ok(worlds.len()),
    }
}
