"""Data in and out of a deployment: `atoll import` and `export`, `atoll backup` and `restore`.

files, checkpoint          what lies on disk: compressed streams, how far a run has come
cells, parquet             values in a file's own types, and as the declaration has them
reading, writing           a file as rows; rows as a file
importing, exporting       a whole run over the public client, resumable after `kill -9`
"""
