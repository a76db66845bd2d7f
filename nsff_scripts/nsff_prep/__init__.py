"""The stages that turn a video into a scene folder: the modules behind the scripts beside this package."""
