__version__ = "0.11.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "fd2fed3c1eafe2b1e4aafaa9064f9592d89b816ac035d877ed38fb1f6466141f"
