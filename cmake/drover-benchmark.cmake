# Google Benchmark for bench/: the system's, else a pinned release.
find_package(benchmark QUIET)
if(NOT benchmark_FOUND)
  message(STATUS "drover: Google Benchmark is fetched")
  include(FetchContent)
  set(BENCHMARK_ENABLE_TESTING OFF)
  set(BENCHMARK_ENABLE_INSTALL OFF)
  FetchContent_Declare(
    benchmark
    URL https://github.com/google/benchmark/archive/refs/tags/v1.8.3.tar.gz
    URL_HASH SHA256=6bc180a57d23d4d9515519f92b0c83d61b05b5bab188961f36ac7b06b0d9e9ce)
  FetchContent_MakeAvailable(benchmark)
endif()
