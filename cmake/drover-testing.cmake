# drover_test() and drover_helper(): how the test programs are declared.
include(FetchContent)
include(GoogleTest)

find_package(GTest QUIET)
if(NOT GTest_FOUND)
  message(STATUS "drover: GoogleTest is fetched")
  set(INSTALL_GTEST OFF)
  FetchContent_Declare(
    googletest
    URL https://github.com/google/googletest/archive/refs/tags/v1.14.0.tar.gz
    URL_HASH SHA256=8ad598c73ad796e0d8280b082cebd82a630d73e73cd3c70057938a6501bba5d7)
  FetchContent_MakeAvailable(googletest)
endif()

# The tests share one precompiled header in the builds for sanitizers, which takes a third of their time away. Other
# builds show an #include that is missing.
option(DROVER_DEVELOP_PRECOMPILE "Developer: the tests share a precompiled header" OFF)
mark_as_advanced(DROVER_DEVELOP_PRECOMPILE)
if(DROVER_DEVELOP_PRECOMPILE)
  add_library(drover_precompiled OBJECT ${PROJECT_SOURCE_DIR}/tests/support/sanitizer_options.cpp)
  target_link_libraries(drover_precompiled PRIVATE drover_develop GTest::gtest)
  # Without drover/run.hpp: some tests have a run() of their own.
  target_precompile_headers(drover_precompiled PRIVATE <gtest/gtest.h> <drover/pool/worker_pool.hpp> <drover/os/process.hpp>
                            <asio/bind_cancellation_slot.hpp> <asio/co_spawn.hpp> <asio/detached.hpp> <asio/steady_timer.hpp>)
  set_target_properties(drover_precompiled PROPERTIES PCH_INSTANTIATE_TEMPLATES ON)
endif()

option(DROVER_DEVELOP_UNITY "Developer: the sources of a test program are compiled together" ON)
mark_as_advanced(DROVER_DEVELOP_UNITY)

# drover_helper(support/name.cpp [library...] [PLAIN] [AS_USED] [ALSO_PLAIN]): a program that tests start. A test that has it
# among its HELPERS finds its path in the macro DROVER_HELPER_NAME.
#   AS_USED  compiled header-only, see drover_as_used.
#   PLAIN  never sanitized: a sanitizer's signal handlers and its slow exit are not what drover gives a child.
#   ALSO_PLAIN  under a sanitizer also built without it, for tests with PLAIN_WORKERS. Declared before these.
function(drover_helper source)
  cmake_parse_arguments(arg "PLAIN;AS_USED;ALSO_PLAIN" "VARIANT" "" ${ARGN})
  set(library drover_develop)
  if(arg_AS_USED)
    set(library drover_as_used)
  endif()
  if(arg_PLAIN)
    set(library drover_header_only)
  endif()
  get_filename_component(name ${source} NAME_WE)
  if(arg_ALSO_PLAIN AND CMAKE_CXX_FLAGS MATCHES "-fsanitize")
    drover_helper(${source} VARIANT plain PLAIN)
  endif()
  set(target helper_${name})
  set(folder ${CMAKE_CURRENT_BINARY_DIR}/helpers)
  if(arg_VARIANT)
    set(target helper_${arg_VARIANT}_${name})
    string(APPEND folder /${arg_VARIANT})  # the program's name is seen in messages
  endif()
  add_executable(${target} ${source} support/sanitizer_options.cpp)
  target_link_libraries(${target} PRIVATE ${library} ${arg_UNPARSED_ARGUMENTS})
  target_include_directories(${target} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  set_target_properties(${target} PROPERTIES OUTPUT_NAME ${name} RUNTIME_OUTPUT_DIRECTORY ${folder})
  if(arg_PLAIN)
    target_compile_options(${target} PRIVATE -fno-sanitize=all)
    target_link_options(${target} PRIVATE -fno-sanitize=all)
  endif()
endfunction()

add_custom_target(drover_tests)  # all that is declared by drover_test()

# drover_test(name.cpp [HELPERS name...] [NO_PIDFD | NO_PIDFD_ALWAYS] [NO_LEAK_CHECK] [SERIAL] [ONE_THREAD] [AS_USED] [PLAIN_WORKERS]
#             [TIMEOUT seconds])
# name.cpp is the test program test_name, and may have a main() of its own; CTest sees each of its cases.
# drover_tests(name source.cpp... [options as above])
# Several sources are one test program. They are compiled together, four at a time: most of a test's time are the templates
# of Asio and of coroutines that all tests share.
#   HELPERS   programs it starts, by the name of their source; declared by drover_helper(), before or after.
#   NO_PIDFD  run once more, as one test, where pidfd_open() fails; not under a sanitizer.
#   NO_PIDFD_ALWAYS  the same, also under ThreadSanitizer: it is to see the waiting threads.
#   NO_LEAK_CHECK  processes must end sooner than LeakSanitizer takes to look for leaks.
#   AS_USED   compiled header-only, see drover_as_used.
#   PLAIN_WORKERS  under a sanitizer, helpers with ALSO_PLAIN are started without it: the test is about the parent, and most of
#             its time would be the start of its workers. What a worker does is shown by the other tests.
#   ONE_THREAD  ThreadSanitizer has nothing to see there: under it the test is left out.
#   SERIAL    nothing else may run beside it: it measures time, or looks at the processes of the whole machine.
function(drover_test source)
  get_filename_component(name ${source} NAME_WE)
  drover_tests(${name} ${source} ${ARGN})
endfunction()

function(drover_tests name)
  cmake_parse_arguments(arg "NO_PIDFD;NO_PIDFD_ALWAYS;NO_LEAK_CHECK;SERIAL;ONE_THREAD;AS_USED;PLAIN_WORKERS" "TIMEOUT" "HELPERS" ${ARGN})
  if(arg_ONE_THREAD AND CMAKE_CXX_FLAGS MATCHES "-fsanitize=thread")
    return()
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 240)
  endif()
  set(target test_${name})

  add_executable(${target} ${arg_UNPARSED_ARGUMENTS})
  list(LENGTH arg_UNPARSED_ARGUMENTS sources)
  if(sources GREATER 1 AND DROVER_DEVELOP_UNITY)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 4)
    # GCC tells of a template of support/ that a test instantiates with a type of its own, since both are in "headers".
    target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wno-subobject-linkage>)
  endif()
  add_dependencies(drover_tests ${target})
  set(library drover_develop)
  if(arg_AS_USED)
    set(library drover_as_used)
  endif()
  target_link_libraries(${target} PRIVATE ${library} GTest::gtest_main)
  target_include_directories(${target} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  if(DROVER_DEVELOP_PRECOMPILE)
    target_precompile_headers(${target} REUSE_FROM drover_precompiled)
  endif()
  foreach(helper IN LISTS arg_HELPERS)
    string(TOUPPER ${helper} macro)
    if(arg_PLAIN_WORKERS AND TARGET helper_plain_${helper})
      set(helper plain_${helper})
    endif()
    target_compile_definitions(${target} PRIVATE "DROVER_HELPER_${macro}=\"$<TARGET_FILE:helper_${helper}>\"")
    add_dependencies(${target} helper_${helper})
  endforeach()

  set(properties TIMEOUT ${arg_TIMEOUT})
  if(arg_SERIAL)
    list(APPEND properties RUN_SERIAL TRUE)
  endif()
  # ThreadSanitizer delays every exit by a second otherwise.
  list(APPEND properties ENVIRONMENT_MODIFICATION "TSAN_OPTIONS=set:atexit_sleep_ms=0")
  if(arg_NO_LEAK_CHECK)
    list(APPEND properties ENVIRONMENT ASAN_OPTIONS=detect_leaks=0)
  endif()
  gtest_discover_tests(${target} DISCOVERY_TIMEOUT 60 PROPERTIES ${properties})
  if((arg_NO_PIDFD_ALWAYS AND NOT CMAKE_CXX_FLAGS MATCHES "-fsanitize=address")
     OR (arg_NO_PIDFD AND NOT CMAKE_CXX_FLAGS MATCHES "-fsanitize"))
    add_test(NAME no_pidfd.${name} COMMAND helper_no_pidfd $<TARGET_FILE:${target}>)
    math(EXPR longer "${arg_TIMEOUT} * 3")
    set_tests_properties(no_pidfd.${name} PROPERTIES ${properties} TIMEOUT ${longer})
    add_dependencies(${target} helper_no_pidfd)
  endif()
endfunction()
