"""What anyone needs who tests something for Loket: a disk that loses power, model servers, conformance suites."""
