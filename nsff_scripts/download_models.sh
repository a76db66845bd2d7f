#!/usr/bin/env bash
# The published name of download_models.py.
exec "${PYTHON:-python3}" "$(dirname "$0")/download_models.py" "$@"
