#!/usr/bin/env bash
# As published; the work is done by download_models.py.
exec "${PYTHON:-python3}" "$(dirname "$0")/download_models.py" "$@"
