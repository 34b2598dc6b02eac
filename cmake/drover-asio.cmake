# Used by the build and, installed beside it, by the package's config file: both have to find Asio the same way.
#
# drover_provide_asio([FETCH]) makes the target drover::asio out of, in this order,
#   1. the target asio::asio, or else the library asio, if the project has one already;
#   2. the headers in ASIO_INCLUDE_DIR, if that is set;
#   3. what the project itself has fetched as `asio`, see drover_asio_own_source();
#   4. the headers on the system, from version 1.22 on;
#   5. with FETCH: a pinned release, by FetchContent (FETCHCONTENT_SOURCE_DIR_ASIO names a copy that is here already).
# Of 1 to 3 the first is taken or, if it is too old, refused: any other one would be a second Asio in the program. If there
# is no drover::asio afterwards, drover_asio_missing says why.

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

# VERSION of the headers that TARGET leads to; empty if it cannot be read here, and drover/detail/platform.hpp checks it.
function(drover_asio_target_version target result)
  set(version "")
  get_target_property(directories ${target} INTERFACE_INCLUDE_DIRECTORIES)
  foreach(directory IN LISTS directories)
    string(REGEX REPLACE "^\\$<BUILD_INTERFACE:(.*)>$" "\\1" directory "${directory}")
    drover_asio_version("${directory}" version)
    if(version)
      break()
    endif()
  endforeach()
  set(${result} "${version}" PARENT_SCOPE)
endfunction()

# The folder of the headers in an unpacked release: include/ from 1.38 on, asio/include/ before.
function(drover_asio_folder source result)
  set(${result} "${source}/include" PARENT_SCOPE)
  if(NOT EXISTS "${source}/include/asio/version.hpp" AND EXISTS "${source}/asio/include/asio/version.hpp")
    set(${result} "${source}/asio/include" PARENT_SCOPE)
  endif()
endfunction()

# The project's own target for Asio; empty if it has none.
function(drover_asio_own_target result)
  set(${result} "" PARENT_SCOPE)
  foreach(target IN ITEMS asio::asio asio)
    if(TARGET ${target})
      get_target_property(type ${target} TYPE)
      if(type MATCHES "LIBRARY$")
        set(${result} ${target} PARENT_SCOPE)
        return()
      endif()
      message(STATUS "drover: the target ${target} is no library, so it is not taken for Asio")
    endif()
  endforeach()
endfunction()

# Where the project keeps an Asio of its own that has no target: what it has declared as `asio` with FetchContent (which
# is made available here if it is not yet), or FETCHCONTENT_SOURCE_DIR_ASIO, or an asio_SOURCE_DIR with headers. Empty if
# there is none.
function(drover_asio_own_source result)
  set(${result} "" PARENT_SCOPE)
  drover_asio_folder("${asio_SOURCE_DIR}" directory)
  if(asio_SOURCE_DIR AND EXISTS "${directory}/asio/version.hpp")
    set(${result} "${asio_SOURCE_DIR}" PARENT_SCOPE)
  elseif(FETCHCONTENT_SOURCE_DIR_ASIO)
    set(${result} "${FETCHCONTENT_SOURCE_DIR_ASIO}" PARENT_SCOPE)
  else()
    FetchContent_GetProperties(asio)
    # CMake has no public way to ask what is declared. If it renames this, the declaration counts once it is populated.
    get_property(declared GLOBAL PROPERTY _FetchContent_asio_savedDetails DEFINED)
    if(declared AND NOT asio_POPULATED)
      FetchContent_MakeAvailable(asio)
    endif()
    set(${result} "${asio_SOURCE_DIR}" PARENT_SCOPE)
  endif()
endfunction()

# Makes drover::asio of the headers in DIRECTORY, or sets PROBLEM.
function(drover_asio_take directory origin problem)
  # find_path() may say /usr/include/, which a compiler does not know as its own folder.
  string(REGEX REPLACE "(.)/+$" "\\1" directory "${directory}")
  drover_asio_version("${directory}" version)
  if(version VERSION_GREATER_EQUAL drover_asio_minimum)
    message(STATUS "drover: Asio ${version} in ${directory}")
    add_library(drover::asio INTERFACE IMPORTED GLOBAL)
    set_target_properties(drover::asio PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${directory}")
  elseif(version)
    set(${problem} "${origin} has Asio ${version}" PARENT_SCOPE)
  else()
    set(${problem} "${origin} has no asio/version.hpp" PARENT_SCOPE)
  endif()
endfunction()

# The same of a target.
function(drover_asio_take_target target problem)
  drover_asio_target_version(${target} version)
  if(version AND version VERSION_LESS drover_asio_minimum)
    set(${problem} "the project's target ${target} has Asio ${version}" PARENT_SCOPE)
    return()
  endif()
  message(STATUS "drover: Asio ${version} is the project's own target ${target}")
  add_library(drover::asio INTERFACE IMPORTED GLOBAL)
  target_link_libraries(drover::asio INTERFACE ${target})
endfunction()

function(drover_provide_asio)
  cmake_parse_arguments(arg "FETCH" "" "" ${ARGN})
  if(TARGET drover::asio)
    return()
  endif()
  include(FetchContent)
  set(source "")
  set(problem "")
  set(ASIO_INCLUDE_DIR "" CACHE PATH "The headers of standalone Asio, if not the system's are to be taken")
  mark_as_advanced(ASIO_INCLUDE_DIR)

  drover_asio_own_target(target)
  if(NOT target AND NOT ASIO_INCLUDE_DIR)
    drover_asio_own_source(source)
    drover_asio_own_target(target)  # what is fetched may define one
  endif()
  unset(system)
  find_path(system NAMES asio/version.hpp NO_CACHE)

  if(target)
    drover_asio_take_target(${target} problem)
  elseif(ASIO_INCLUDE_DIR)
    drover_asio_take("${ASIO_INCLUDE_DIR}" "ASIO_INCLUDE_DIR, ${ASIO_INCLUDE_DIR}," problem)
  elseif(source)
    drover_asio_folder("${source}" directory)
    drover_asio_take("${directory}" "the project's own asio, ${directory}," problem)
  elseif(system)
    drover_asio_take("${system}" "${system}" problem)
  else()
    set(problem "none was found")
  endif()
  if(TARGET drover::asio)
    return()
  endif()

  if(arg_FETCH AND NOT target AND NOT ASIO_INCLUDE_DIR AND NOT source)
    message(STATUS "drover needs Asio ${drover_asio_minimum} or later, but ${problem}, so Asio 1.30.2 is fetched")
    FetchContent_Declare(
      asio
      URL https://github.com/chriskohlhoff/asio/archive/refs/tags/asio-1-30-2.tar.gz
      URL_HASH SHA256=755bd7f85a4b269c67ae0ea254907c078d408cce8e1a352ad2ed664d233780e8)
    FetchContent_MakeAvailable(asio)
    drover_asio_folder("${asio_SOURCE_DIR}" directory)
    drover_asio_take("${directory}" "${directory}" problem)
    if(TARGET drover::asio)
      return()
    endif()
  endif()
  set(drover_asio_missing
      "drover needs the headers of standalone Asio, ${drover_asio_minimum} or later, but ${problem}. Install them (Debian, Ubuntu: libasio-dev) or set ASIO_INCLUDE_DIR."
      PARENT_SCOPE)
endfunction()
