"""The page of the Space: F0 error."""

from hf_affectcodec.metric_space import build_pair_page
from hf_affectcodec.metrics.f0 import f0_correlation, f0_rmse, log_f0_rmse, voicing_error


METRICS = {
    "F0 RMSE (Hz)": f0_rmse,
    "F0 RMSE (semitones)": log_f0_rmse,
    "F0 correlation": f0_correlation,
    "voicing error (share of frames)": voicing_error,
}
page = build_pair_page("F0 error", f0_rmse, METRICS, aligned=True)

if __name__ == "__main__":
    page.launch()
