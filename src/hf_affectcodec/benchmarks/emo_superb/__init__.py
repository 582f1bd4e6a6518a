"""The EMO-SUPERB protocol behind `affectcodec evaluate ser`: sets, probe, table."""
