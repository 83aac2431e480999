"""A structured fuzzer: every format that is read and every option, by seeded mutations of good inputs."""
