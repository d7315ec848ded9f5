__version__ = "0.3.0"
# The SHA-256 of the code that is saved with models of this version. Whoever changes that code raises the version: a
# file is known by it (hub_card/provenance.py). tests/test_export.py says what to write here.
EXPORTED_CODE = "68dae975f33fc5f1cbe6c41e8f6438936555d66166559cb8aec63e83ffed2c32"
