//! What can be wrong with data, in words that say where to look.

use std::io;
use std::path::PathBuf;

use crate::text::Origin;

/// The result of everything in this crate that reads, checks or writes data.
pub type Result<T> = std::result::Result<T, Error>;

/// What is wrong, where, and what was expected instead.
///
/// Each message is complete in itself: the text of an underlying error (`cause`, `reason`) is part
/// of it, and is not repeated by [`std::error::Error::source`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A path that was named does not exist.
    #[error("{}: no such file or folder", path.display())]
    MissingPath {
        /// The path as it was given.
        path: PathBuf,
    },
    /// The system refused an operation on a file.
    #[error("{}: cannot {action} it: {cause}", path.display())]
    Io {
        /// What was tried: "read", "list", "write", "lock" or "create".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        cause: io::Error,
    },
    /// A file that was named is not of a kind that holds text.
    #[error(
        "{}: not a text source; expected a file ending in {expected}, or a folder of them",
        path.display()
    )]
    UnsupportedExtension {
        /// The path as it was given.
        path: PathBuf,
        /// The endings that are read.
        expected: &'static str,
    },
    /// Two of the given paths lead to the same file.
    #[error(
        "{}: given twice; name each file once, and no file beside a folder that holds it",
        path.display()
    )]
    DuplicateFile {
        /// The file.
        path: PathBuf,
    },
    /// A place that begins as one of the hub and is none.
    #[error(
        "{place}: not a place of the hub; expected hub:OWNER/NAME[@REVISION]/FILE of letters, \
         digits and -_.+="
    )]
    HubPlace {
        /// As it was given.
        place: String,
    },
    /// A file of the hub cannot be had.
    #[error("{file}: {reason}")]
    Hub {
        /// The file, as [`HubFile`](crate::hub::HubFile) writes it.
        file: String,
        /// What is wrong, and what can be done.
        reason: String,
    },
    /// A range of names that goes down or is endless.
    #[error("{place}: {{{range}}} must go up, from 0 to 1,000,000 at most")]
    NameRange {
        /// The place that has it.
        place: String,
        /// What stands in the braces.
        range: String,
    },
    /// The bytes of a file are not UTF-8.
    #[error(
        "{}: byte {byte} (line {line}) is not UTF-8; re-encode the file, for example with iconv",
        path.display()
    )]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Offset of the first wrong byte from the beginning of the (decompressed) text, from 0.
        byte: u64,
        /// Its line, from 1.
        line: usize,
    },
    /// A line of a JSON-lines file is not a JSON object.
    #[error("{}:{line}: not JSON: {reason}; expected one object a line", path.display())]
    NotJson {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser says.
        reason: String,
    },
    /// A line of a JSON-lines file is an object without a string called "text".
    #[error("{}:{line}: no string field \"text\": {reason}", path.display())]
    NoText {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser says.
        reason: String,
    },
    /// A gzip file ends before its data does.
    #[error(
        "{}: the gzip data ends early, in line {line} of the text; download or copy the file \
         again",
        path.display()
    )]
    TruncatedGzip {
        /// The file.
        path: PathBuf,
        /// The line of the decompressed text that was being read, from 1.
        line: usize,
    },
    /// A file that should be gzip is not, or its checksum is wrong.
    #[error("{}: not valid gzip data, in line {line} of the text: {cause}", path.display())]
    CorruptGzip {
        /// The file.
        path: PathBuf,
        /// The line of the decompressed text that was being read, from 1.
        line: usize,
        /// What the decoder says.
        cause: io::Error,
    },
    /// Not one document was found.
    #[error("{place}: no text to train on: {report}")]
    EmptyCorpus {
        /// The paths that were read.
        place: String,
        /// What was there.
        report: Box<crate::text::SourceReport>,
    },
    /// A held-out file is also a training file.
    #[error(
        "{}: both in the training and in the held-out text; name it in one of them only",
        path.display()
    )]
    HeldOutOverlap {
        /// The file.
        path: PathBuf,
    },
    /// The held-out fraction does not leave text on both sides.
    #[error("data.eval_fraction = {value}: expected a number above 0 and below 1")]
    EvalFraction {
        /// The given value.
        value: f64,
    },
    /// The text is too short for a split by this fraction.
    #[error(
        "data.eval_fraction = {eval_fraction} leaves no text on one side of the split: the \
         corpus has {bytes} bytes; give more text or another fraction"
    )]
    TooSmallToSplit {
        /// All bytes of the corpus.
        bytes: u64,
        /// The given fraction.
        eval_fraction: f64,
    },
    /// A byte-level vocabulary has no room for the bytes.
    #[error(
        "data.vocab_size = {vocab_size}: a byte-level vocabulary needs at least {minimum}, the \
         256 bytes and the end-of-text token"
    )]
    VocabSize {
        /// The given size.
        vocab_size: usize,
        /// The smallest one.
        minimum: usize,
    },
    /// The training text has fewer pieces than were asked for.
    #[error(
        "data.vocab_size = {vocab_size}: only {learned} pieces could be learned from {bytes} \
         bytes of training text; lower data.vocab_size to {learned} or less, or give more text"
    )]
    TooFewPieces {
        /// The given size.
        vocab_size: usize,
        /// What the text gives, bytes and end-of-text token included.
        learned: usize,
        /// The size of the training text.
        bytes: u64,
    },
    /// A tokenizer file is not what the `tokenizers` library writes.
    #[error("{}: not a tokenizer.json: {reason}", path.display())]
    MalformedTokenizer {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },
    /// A tokenizer has no end-of-text token.
    #[error(
        "{}: no end-of-text token: looked for {}; name another one that the file has",
        path.display(),
        tried.join(", ")
    )]
    NoEosToken {
        /// The file.
        path: PathBuf,
        /// The tokens that were looked for.
        tried: Vec<String>,
    },
    /// The tokenizer cannot be trained or written.
    #[error("the tokenizer: {reason}")]
    Tokenizer {
        /// What the library says.
        reason: String,
    },
    /// A text cannot be encoded.
    #[error("{place}: the tokenizer cannot encode it: {reason}")]
    Encode {
        /// The document (or documents) that was being encoded.
        place: String,
        /// What the library says.
        reason: String,
    },
    /// A token id that the vocabulary does not have.
    #[error("token {id} cannot be decoded: the vocabulary of {vocab_size} ids has no such token")]
    UnknownToken {
        /// The id.
        id: u32,
        /// The size of the vocabulary.
        vocab_size: usize,
    },
    /// A vocabulary whose ids do not fit in 16 bits.
    #[error(
        "cannot export tokens as 16-bit numbers: the vocabulary has {vocab_size} ids, at most \
         65536 fit; use a smaller data.vocab_size or another tokenizer"
    )]
    VocabAboveU16 {
        /// The size of the vocabulary.
        vocab_size: usize,
    },
    /// A split has not enough tokens for one sequence.
    #[error(
        "the {split} split has {tokens} tokens, and one sequence of model.seq_len = {seq_len} \
         needs {needed} (the target is one token ahead); give more text or shorter sequences"
    )]
    CorpusTooShort {
        /// "training" or "held-out".
        split: &'static str,
        /// The tokens that are there.
        tokens: usize,
        /// The tokens that are needed.
        needed: usize,
        /// The length of a sequence.
        seq_len: usize,
    },
    /// A number that must not be zero.
    #[error("{field} = 0: expected at least 1")]
    Zero {
        /// The configuration key.
        field: &'static str,
    },
    /// A saved position that belongs to other data or other settings.
    #[error(
        "the saved data position was made with {field} = {saved}, this run has {field} = \
         {here}; resume with the settings and the data of the run that saved it"
    )]
    CursorMismatch {
        /// What differs.
        field: &'static str,
        /// Its value in the cursor.
        saved: String,
        /// Its value in this run.
        here: String,
    },
    /// The bytes are not those of a sound file that is known here.
    #[error("{name}: not a sound file: {reason}; expected WAV, FLAC, MP3 or Ogg Vorbis")]
    NotSound {
        /// The file, or whatever holds the bytes.
        name: String,
        /// What is there instead.
        reason: String,
    },
    /// A sound file whose contents are coded in a way that is not read here.
    #[error(
        "{name}: cannot be decoded: {reason}; expected PCM, ADPCM, FLAC, MP3 or Vorbis, as one \
         stream"
    )]
    UnsupportedSound {
        /// The file, or whatever holds the bytes.
        name: String,
        /// What it holds instead.
        reason: String,
    },
    /// A container of sound or video in which there is no sound.
    #[error("{name}: has no audio track; expected a file with one track of speech")]
    NoAudioTrack {
        /// The file, or whatever holds the bytes.
        name: String,
    },
    /// A sound file that ends before its sound does.
    #[error("{name}: ends early, {place}; download or copy the file again")]
    TruncatedSound {
        /// The file, or whatever holds the bytes.
        name: String,
        /// Where it ends, and where it says that it does.
        place: String,
    },
    /// A sound file with bytes that its decoder refuses.
    #[error("{name}: damaged, at {seconds:.2} s: {reason}; download or copy the file again")]
    DamagedSound {
        /// The file, or whatever holds the bytes.
        name: String,
        /// How much sound was decoded before.
        seconds: f64,
        /// What the decoder says.
        reason: String,
    },
    /// A sound file without a single sample.
    #[error("{name}: has no sound in it, not one sample; expected a clip of speech")]
    EmptySound {
        /// The file, or whatever holds the bytes.
        name: String,
    },
    /// A sample that is no amplitude.
    #[error("{name}: the sample at {seconds:.3} s is {value}; expected numbers from -1 to 1")]
    SoundSample {
        /// The file, or whatever holds the bytes.
        name: String,
        /// Where the first such sample is.
        seconds: f64,
        /// Its value: NaN, infinite or beyond any scale that recordings have.
        value: f32,
    },
    /// A sampling rate that no speech is recorded at.
    #[error("{name}: has {rate} samples a second; expected 4,000 to 768,000")]
    SoundRate {
        /// The file, or whatever holds the bytes.
        name: String,
        /// The rate that the file says.
        rate: u32,
    },
    /// A factor of speed that is not about 1.
    #[error("speed {factor}: expected a factor from 0.5 (twice as long) to 2 (half as long)")]
    Speed {
        /// The given factor.
        factor: f64,
    },
    /// Masks of time that are longer than what they mask.
    #[error("SpecAugment's time_share = {value}: expected a share of the length, from 0 to 1")]
    TimeShare {
        /// The given share.
        value: f64,
    },
    /// A place that holds no speech.
    #[error("{}: no speech there; expected {expected}", path.display())]
    NoSpeechPlace {
        /// The place as it was given.
        path: PathBuf,
        /// What is read.
        expected: &'static str,
    },
    /// A line of a manifest or of a `.trans.txt` is not as it must be.
    #[error("{}:{line}: {reason}", path.display())]
    SpeechLine {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A parquet table, or a row of one, cannot be read.
    #[error("{place}: not a table of speech: {reason}")]
    SpeechTable {
        /// The table, as it was asked for.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Not one utterance was found.
    #[error("{place}: no speech to train on: {report}")]
    NoUtterances {
        /// The places that were read.
        place: String,
        /// What was there.
        report: Box<crate::speech::SourceReport>,
    },
    /// No utterance can be used.
    #[error("no utterance can be used: {report}")]
    NoSpeech {
        /// Why.
        report: Box<crate::speech::SpeechReport>,
    },
    /// Two utterances are of the same sound.
    #[error("{clip}: given twice; name each sound once")]
    DuplicateClip {
        /// The sound.
        clip: String,
    },
    /// A held-out sound is also trained on.
    #[error("{clip}: both in the training and in the held-out speech; name it in one of them only")]
    HeldOutClip {
        /// The sound.
        clip: String,
    },
    /// A sound is not what it was when it was checked.
    #[error("{name}: it had {expected} samples when it was checked, and has {here} now")]
    SoundChanged {
        /// The sound.
        name: String,
        /// Its samples before.
        expected: usize,
        /// Its samples now.
        here: usize,
    },
    /// In mid-run, not one sound can be read any more.
    #[error(
        "not one batch can be made any more, {clips} sounds cannot be read, the last: {reason}"
    )]
    SpeechGone {
        /// Sounds that could not be read.
        clips: usize,
        /// What is wrong with one of them.
        reason: String,
    },
    /// A setting for speech that cannot be.
    #[error("{field} = {value}: expected {expected}")]
    SpeechSetting {
        /// The configuration key.
        field: &'static str,
        /// The given value.
        value: String,
        /// What it may be.
        expected: String,
    },
    /// The training transcripts have no character at all.
    #[error("the training transcripts have no character that a network could learn to write")]
    NoUnits,
    /// A vocabulary of pieces has no room for single characters.
    #[error(
        "data.vocab_size = {vocab_size}: the blank and the characters of the training transcripts are \
         {minimum}; give at least that"
    )]
    PiecesBelowAlphabet {
        /// The given size.
        vocab_size: usize,
        /// The smallest one.
        minimum: usize,
    },
    /// A file of units is not one.
    #[error("{}: not a units.json: {reason}", path.display())]
    MalformedUnits {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The bytes of a picture cannot be used.
    #[error("{name}: {fault}")]
    Picture {
        /// The file, or whatever holds the bytes.
        name: String,
        /// What is wrong with them.
        fault: crate::image::Fault,
    },
    /// A place that holds no pictures.
    #[error("{}: no pictures there; expected {expected}", path.display())]
    NoImagePlace {
        /// The place as it was given.
        path: PathBuf,
        /// What is read.
        expected: &'static str,
    },
    /// A parquet table, or a row of one, cannot be read.
    #[error("{place}: not a table of pictures: {reason}")]
    ImageTable {
        /// The table, as it was asked for.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file is not what an IDX file of pictures or labels must be.
    #[error("{}: not an IDX file of that kind: {reason}; download or copy the file again", path.display())]
    ImageIdx {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Not one picture was found.
    #[error("{place}: no pictures to train on: {report}")]
    NoPictures {
        /// The places that were read.
        place: String,
        /// What was there.
        report: Box<crate::image::SourceReport>,
    },
    /// No picture can be used.
    #[error("no picture can be used: {report}")]
    NoImages {
        /// Why.
        report: Box<crate::image::ImageReport>,
    },
    /// Two pictures are the same file.
    #[error(
        "{picture}: given twice; name each picture once, and none beside a folder that holds it"
    )]
    DuplicatePicture {
        /// The picture.
        picture: String,
    },
    /// A held-out picture is also trained on.
    #[error(
        "{picture}: both in the training and in the held-out pictures; name it in one of them only"
    )]
    HeldOutPicture {
        /// The picture.
        picture: String,
    },
    /// A picture is not what it was when it was checked.
    #[error(
        "{name}: it had {} x {} pixels when it was checked, and has {} x {} now",
        before.0, before.1, here.0, here.1
    )]
    ImageChanged {
        /// The picture.
        name: String,
        /// Its width and height before.
        before: (usize, usize),
        /// Its width and height now.
        here: (usize, usize),
    },
    /// In mid-run, not one picture can be read any more.
    #[error(
        "not one batch can be made any more, {pictures} pictures cannot be read, such as: {reason}"
    )]
    ImagesGone {
        /// Pictures that could not be read.
        pictures: usize,
        /// What is wrong with one of them.
        reason: String,
    },
    /// A setting for pictures that cannot be.
    #[error("{field} = {value}: expected {expected}")]
    ImageSetting {
        /// The configuration key.
        field: &'static str,
        /// The given value.
        value: String,
        /// What it may be.
        expected: String,
    },
    /// The preparation of data was told to stop; nobody waits for it.
    #[error("the preparation of the data was stopped")]
    Stopped,
    /// A saved position that no run can reach.
    #[error(
        "the saved data position says batch {batch_index}, which no run reaches: the file is \
         damaged"
    )]
    CursorOutOfRange {
        /// The batch index in the cursor.
        batch_index: u64,
    },
}

impl Error {
    /// An error of the `tokenizers` library about the documents from `first` to `last`.
    pub(crate) fn encode(first: &Origin, last: &Origin, cause: &dyn std::error::Error) -> Self {
        let place = if first == last { first.to_string() } else { format!("{first} to {last}") };
        Self::Encode { place, reason: cause.to_string() }
    }
}
