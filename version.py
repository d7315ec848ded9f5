__version__ = "0.3.0"
# The SHA-256 of the code that is saved with models of this version. Whoever changes that code raises the version: a
# file is known by it (hub_card/provenance.py). tests/test_export.py says what to write here.
EXPORTED_CODE = "e5ffeba00425ee4e0e989be0836f2d40b5a11d3753a02e0f71be20e7865fa8d6"
