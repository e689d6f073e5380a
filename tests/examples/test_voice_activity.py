"""silero-vad: the same outputs as ONNX Runtime."""

import numpy as np
import pytest

import fetch
import voice_activity

pytestmark = pytest.mark.network


def test_the_program_is_content(run_example):
    assert run_example("voice_activity").startswith("right: on 10 recordings")


@pytest.fixture(scope="module")
def detector():
    return voice_activity.Detector(fetch.file("silero-vad", voice_activity.MODEL))


@pytest.mark.parametrize("name", voice_activity.RECORDINGS)
def test_outputs_are_those_of_onnx_runtime(detector, name):
    samples = voice_activity.recording(name)
    x, found, errors = detector.compare(samples)
    assert x.shape == (-(-len(samples) // 512), 1, 128)
    assert voice_activity.is_right(errors)
    # Each is as close to exact arithmetic as float32 gets, so they may be twice as far apart.
    assert errors.from_exact < 2e-6
    assert errors.from_runtime < 4e-6
    assert 0.5 < np.mean(found > 0.5) < 0.97  # speech, and pauses


def test_frames_overlap():
    samples = np.arange(1, 1101, dtype=np.float32)
    found = voice_activity.frames(samples)
    assert found.shape == (3, 64 + 512)
    assert not found[0, :64].any()
    assert (found[:2, 64:].ravel() == samples[:1024]).all()
    assert (found[1:, :64] == found[:2, -64:]).all()
    assert (found[2, 64 : 64 + 76] == samples[1024:]).all()
    assert not found[2, 64 + 76 :].any()


def test_silence_is_not_speech(detector):
    _, found, errors = detector.compare(np.zeros(16000, np.float32))
    assert voice_activity.is_right(errors)
    assert found.max() < 0.1
