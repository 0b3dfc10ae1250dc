"""Which files a corpus consists of: found in folders and buckets, digested, sampled, and a log of what was passed over."""
