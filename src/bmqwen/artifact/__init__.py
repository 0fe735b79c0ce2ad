"""Files of the kind .bmodel: what they say of themselves, read without the vendor's libraries."""
