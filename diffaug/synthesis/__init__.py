"""A generator becomes a pool: how many images each class lacks, which samples are kept, and their record."""
