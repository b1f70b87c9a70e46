//! Many parameters in one session: each as if it were alone, and all or nothing.

use fadam_core::AnyConfig;

use super::{Given, Host, Param};
use crate::entry::{Dtype, Squared};
use crate::session::{Checked, OnBad, Session};
use crate::{bits, fresh, noise, numbers};

/// Parameters of all partitions, dtypes and algorithms, in one session.
struct Model {
    session: Session<Host>,
    params: Vec<(AnyConfig, Param)>,
}

impl Model {
    fn new(host: &Host, on_bad: OnBad) -> Self {
        let dims: [&[usize]; 9] = [
            &[300, 257],
            &[70_001],
            &[5, 3, 3],
            &[],
            &[2, 700, 40],
            &[1000, 3, 3],
            &[64, 40],
            &[1, 6000],
            &[17],
        ];
        let dtypes = [Dtype::F32, Dtype::F64, Dtype::BF16, Dtype::F16];
        let params = dims.iter().enumerate().map(|(i, dims)| {
            let config = AnyConfig::named(AnyConfig::NAMES[[1, 3, 0, 2][i % 4]]).unwrap();
            let dtype = dtypes[i % 3 + usize::from(i > 5)];
            let plain = fresh(&config, dims, &noise(dims.iter().product(), i, 1.0), dtype);
            let param = Param::new(host, &format!("p{i}"), &plain, Squared::OfGradient, false);
            (config, param)
        });
        let session = Session::new(host.clone(), on_bad).unwrap();
        Self { session, params: params.collect() }
    }

    /// One step of the parameters that `which` names a step number for; `bad` is the value of the last element of the
    /// gradient of one of them.
    fn step(
        &mut self,
        which: impl Fn(usize) -> Option<u64>,
        seed: usize,
        bad: Option<(usize, f64)>,
    ) {
        let mut entries = Vec::new();
        for (i, (config, param)) in self.params.iter().enumerate() {
            let Some(t) = which(i) else { continue };
            let mut g = noise(param.shape.count() as usize, seed + i, 0.01);
            if let Some((_, value)) = bad.filter(|(at, _)| *at == i) {
                *g.last_mut().unwrap() = value;
            }
            let given = Given { g: &g, squares: None, auxiliary: None };
            entries.push(param.entry(numbers(config, t), &given));
        }
        self.session.step(&entries).unwrap();
    }

    fn bits(&self) -> Vec<Vec<u64>> {
        self.params.iter().map(|(_, param)| bits(&param.values())).collect()
    }

    /// The names of all but one parameter, each with the count of its cancelled steps.
    fn missed(&self, count: u64, but: Option<usize>) -> Vec<(String, u64)> {
        let all = self.params.iter().enumerate().filter(|(i, _)| Some(*i) != but);
        all.map(|(_, (_, param))| (param.name.clone(), count)).collect()
    }
}

#[test]
fn many_tensors_in_one_launch_are_each_alone() {
    let Some(host) = Host::start() else { return };
    let mut alone = Model::new(&host, OnBad::Halt);
    for t in 1..=3 {
        for i in 0..alone.params.len() {
            alone.step(|k| (k == i).then_some(t), 100 * t as usize, None);
        }
    }
    assert_eq!(alone.session.check().unwrap(), Checked::default());
    for backwards in [false, true] {
        host.backwards(backwards);
        let mut together = Model::new(&host, OnBad::Halt);
        (1..=3).for_each(|t| together.step(|_| Some(t), 100 * t as usize, None));
        assert!(together.bits() == alone.bits(), "backwards: {backwards}");
    }
}

#[test]
fn nothing_changes_in_a_bad_step() {
    let Some(host) = Host::start() else { return };
    for on_bad in [OnBad::Halt, OnBad::Skip] {
        for (which, value) in
            [(0, f64::NAN), (1, f64::INFINITY), (4, f64::NEG_INFINITY), (8, f64::NAN)]
        {
            let mut model = Model::new(&host, on_bad);
            model.step(|_| Some(1), 1, None);
            let before = model.bits();
            model.step(|_| Some(2), 2, Some((which, value)));
            assert!(model.bits() == before, "{on_bad:?} {which} {value}");
            let checked = model.session.check().unwrap();
            let first = Some((format!("p{which}"), "g"));
            assert_eq!(checked, Checked { cancelled: 1, missed: model.missed(1, None), first });
            assert_eq!(model.session.check().unwrap(), Checked::default(), "it is told once");
        }
    }
}

#[test]
fn after_a_bad_step_all_halt_until_the_check() {
    let Some(host) = Host::start() else { return };
    let mut model = Model::new(&host, OnBad::Halt);
    model.step(|_| Some(1), 1, None);
    let before = model.bits();
    model.step(|_| Some(2), 2, Some((3, f64::NAN)));
    model.step(|_| Some(3), 3, None);
    model.step(|_| Some(4), 4, Some((1, f64::NAN)));
    assert!(model.bits() == before);
    let checked = model.session.check().unwrap();
    let first = Some(("p3".to_owned(), "g"));
    assert_eq!(checked, Checked { cancelled: 3, missed: model.missed(3, None), first });

    // The host goes on with the step numbers that it has corrected.
    model.step(|_| Some(2), 3, None);
    let mut never = Model::new(&host, OnBad::Halt);
    never.step(|_| Some(1), 1, None);
    never.step(|_| Some(2), 3, None);
    assert!(model.bits() == never.bits());
    assert_eq!(model.session.check().unwrap(), Checked::default());
}

#[test]
fn a_skipped_step_is_as_if_it_had_not_been() {
    let Some(host) = Host::start() else { return };
    let mut model = Model::new(&host, OnBad::Skip);
    model.step(|_| Some(1), 1, None);
    // Parameter 2 has no gradient in the bad step, so its own t goes on where it was.
    model.step(|i| (i != 2).then_some(2), 2, Some((5, f64::NAN)));
    model.step(|i| Some(if i == 2 { 2 } else { 3 }), 3, None);
    let mut never = Model::new(&host, OnBad::Skip);
    never.step(|_| Some(1), 1, None);
    never.step(|_| Some(2), 3, None);
    assert!(model.bits() == never.bits());
    let checked = model.session.check().unwrap();
    let first = Some(("p5".to_owned(), "g"));
    assert_eq!(checked, Checked { cancelled: 1, missed: model.missed(1, Some(2)), first });
    model.step(|_| Some(3), 4, None);
    never.step(|_| Some(3), 4, None);
    assert!(model.bits() == never.bits());
}
