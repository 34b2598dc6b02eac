# Used by the build and, installed beside it, by the package's config file: both have to find Asio the same way.
#
# drover_provide_asio([FETCH]) makes the target drover::asio out of, in this order,
#   1. the target asio::asio, if the project has one already;
#   2. the headers in ASIO_INCLUDE_DIR, or else those on the system, from version 1.22 on;
#   3. with FETCH: a pinned release, by FetchContent (FETCHCONTENT_SOURCE_DIR_ASIO names a copy that is here already).
# Without any of them drover_asio_missing says why.

set(drover_asio_minimum 1.22)

# VERSION of the Asio headers in DIRECTORY; empty if there are none.
function(drover_asio_version directory result)
  set(version "")
  if(EXISTS "${directory}/asio/version.hpp")
    # #define ASIO_VERSION 102201 is 1.22.1
    file(STRINGS "${directory}/asio/version.hpp" line REGEX "^#define ASIO_VERSION [0-9]+")
    if(line MATCHES "ASIO_VERSION ([0-9]+)")
      set(number ${CMAKE_MATCH_1})
      math(EXPR major "${number} / 100000")
      math(EXPR minor "${number} / 100 % 1000")
      math(EXPR patch "${number} % 100")
      set(version ${major}.${minor}.${patch})
    endif()
  endif()
  set(${result} "${version}" PARENT_SCOPE)
endfunction()

function(drover_asio_target directory)
  add_library(drover::asio INTERFACE IMPORTED GLOBAL)
  set_target_properties(drover::asio PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${directory}")
endfunction()

function(drover_provide_asio)
  cmake_parse_arguments(arg "FETCH" "" "" ${ARGN})
  if(TARGET drover::asio)
    return()
  endif()

  if(TARGET asio::asio)
    message(STATUS "drover: Asio is the project's own target asio::asio")
    add_library(drover::asio INTERFACE IMPORTED GLOBAL)
    target_link_libraries(drover::asio INTERFACE asio::asio)
    return()
  endif()

  find_path(ASIO_INCLUDE_DIR NAMES asio/version.hpp DOC "Where the headers of standalone Asio are")
  mark_as_advanced(ASIO_INCLUDE_DIR)
  drover_asio_version("${ASIO_INCLUDE_DIR}" version)
  if(version VERSION_GREATER_EQUAL drover_asio_minimum)
    message(STATUS "drover: Asio ${version} in ${ASIO_INCLUDE_DIR}")
    drover_asio_target("${ASIO_INCLUDE_DIR}")
    return()
  endif()

  if(version)
    set(found "${ASIO_INCLUDE_DIR} has Asio ${version}")
  else()
    set(found "no asio/version.hpp was found (ASIO_INCLUDE_DIR: ${ASIO_INCLUDE_DIR})")
  endif()
  if(NOT arg_FETCH)
    set(drover_asio_missing
        "drover needs the headers of standalone Asio, ${drover_asio_minimum} or later, but ${found}. Install them (Debian, Ubuntu: libasio-dev) or set ASIO_INCLUDE_DIR."
        PARENT_SCOPE)
    return()
  endif()

  message(STATUS "drover: ${found}, so Asio 1.30.2 is fetched")
  include(FetchContent)
  FetchContent_Declare(
    asio
    URL https://github.com/chriskohlhoff/asio/archive/refs/tags/asio-1-30-2.tar.gz
    URL_HASH SHA256=755bd7f85a4b269c67ae0ea254907c078d408cce8e1a352ad2ed664d233780e8)
  FetchContent_MakeAvailable(asio)
  drover_asio_version("${asio_SOURCE_DIR}/asio/include" version)
  if(NOT version VERSION_GREATER_EQUAL drover_asio_minimum)
    message(FATAL_ERROR "drover: ${asio_SOURCE_DIR}/asio/include has no Asio ${drover_asio_minimum} or later")
  endif()
  drover_asio_target("${asio_SOURCE_DIR}/asio/include")
endfunction()
