//! An OTLP receiver with scripted faults, as a library and as a program.
