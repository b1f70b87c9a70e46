//! The clips that come with the crate, from beginning to end.

use std::sync::Arc;

use fadam_data::speech::{
    Normalisation, SetSpec, SpeechBatches, SpeechSet, SpeechSource, SpeechSpec, embedded,
    transcripts,
};

use super::characters;

#[test]
fn every_embedded_clip_is_trained_on() {
    let (utterances, report) = SpeechSource::Embedded.read().unwrap();
    let clips = embedded().unwrap();
    assert_eq!(report.to_string(), format!("{} utterances from 1 file", clips.len()));
    let (first, name) = (&utterances[0], clips[0].name);
    assert_eq!((&*first.id, &*first.text), (name, clips[0].text));
    assert_eq!(first.audio.to_string(), format!("embedded:{name}"));

    // Letters of plain words, the apostrophe and the space.
    let texts = transcripts(&utterances, Normalisation::Standard).concat();
    assert!(texts.chars().all(|c| c.is_ascii_lowercase() || c == ' ' || c == '\''), "{texts}");
    let units = characters(&utterances);
    let set = SpeechSet::build(utterances, &units, &SetSpec::default(), &|_, _| {}).unwrap();
    let report = set.report();
    assert_eq!(report.kept, clips.len(), "{report}");
    assert_eq!((report.resampled, report.mixed_down), (126, 0));
    assert!(report.unknown_characters.is_empty());

    let set = Arc::new(set);
    let mut batches = SpeechBatches::new(set.clone(), SpeechSpec::plain(8, 1)).unwrap();
    let mut seen = vec![0; clips.len()];
    for _ in 0..clips.len().div_ceil(8) {
        let batch = batches.next_batch().unwrap();
        assert!(batch.features.iter().all(|x| x.is_finite()));
        batch.utterances.iter().for_each(|&clip| seen[clip] += 1);
    }
    assert_eq!(seen, vec![1; clips.len()]);
    let report = batches.report();
    assert!((report.seconds - set.report().seconds).abs() < 1e-6);
    // All of them are sorted together: what is left is within batches of 8.
    assert!((0.0..0.12).contains(&report.padding_share()), "{}", report.padding_share());
}
