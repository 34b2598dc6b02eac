# cmake -DSOURCE_DIR=... -P: the files, names and links in the documents are there.
file(GLOB_RECURSE documents ${SOURCE_DIR}/docs/*.md)
list(APPEND documents ${SOURCE_DIR}/README.md ${SOURCE_DIR}/CHANGELOG.md ${SOURCE_DIR}/CONTRIBUTING.md
     ${SOURCE_DIR}/SECURITY.md ${SOURCE_DIR}/bench/README.md)

file(GLOB_RECURSE sources ${SOURCE_DIR}/include/*.hpp ${SOURCE_DIR}/include/*.ipp ${SOURCE_DIR}/tests/*.cpp
     ${SOURCE_DIR}/tests/*.hpp ${SOURCE_DIR}/tests/*CMakeLists.txt)
set(all "")
foreach(source IN LISTS sources)
  file(READ ${source} content)
  string(APPEND all "${content}")
endforeach()

set(count 0)
foreach(document IN LISTS documents)
  file(RELATIVE_PATH name ${SOURCE_DIR} ${document})
  get_filename_component(folder ${document} DIRECTORY)
  file(READ ${document} text)
  string(REPLACE ";" "," text "${text}")
  string(REPLACE "[" "<" text "${text}")
  string(REPLACE "](" "@(" text "${text}")
  string(REPLACE "]" ">" text "${text}")

  # `pool/detail/pool.ipp`: in the repository, in include/drover, or beside the document.
  string(REGEX MATCHALL "`[A-Za-z0-9_./-]+\\.(hpp|ipp|cpp|md|cmake)`" files "${text}")
  foreach(file IN LISTS files)
    math(EXPR count "${count} + 1")
    string(REPLACE "`" "" file "${file}")
    string(REGEX REPLACE "^drover/" "" inside "${file}")
    if(NOT EXISTS ${SOURCE_DIR}/${file} AND NOT EXISTS ${SOURCE_DIR}/include/drover/${inside} AND NOT EXISTS ${folder}/${file}
       AND NOT all MATCHES "#include [<\"]${file}[>\"]" AND NOT file MATCHES "^(main.cpp|drover.cpp|results.md)$")  # the reader's own, or written by bench/run.py
      message(SEND_ERROR "${name} names the file ${file}, which is not there")
    endif()
  endforeach()

  # <text@(link)
  string(REGEX MATCHALL "@\\([A-Za-z0-9_./-]+(#[a-z0-9-]+)?\\)" links "${text}")
  foreach(link IN LISTS links)
    math(EXPR count "${count} + 1")
    string(REGEX REPLACE "^@\\(([^)#]+).*" "\\1" link "${link}")
    if(NOT EXISTS ${folder}/${link})
      message(SEND_ERROR "${name} links to ${link}, which is not there")
    endif()
  endforeach()

  # `Class::member`
  string(REGEX MATCHALL "`[A-Z][A-Za-z]+::~?[A-Za-z_]+" members "${text}")
  list(REMOVE_DUPLICATES members)
  foreach(member IN LISTS members)
    math(EXPR count "${count} + 1")
    string(REGEX REPLACE "`(.*)::~?(.*)" "\\1;\\2" words "${member}")
    foreach(word IN LISTS words)
      if(NOT all MATCHES "[^A-Za-z_]${word}[^A-Za-z_]")
        message(SEND_ERROR "${name} names ${member}, but there is no ${word}")
      endif()
    endforeach()
  endforeach()
endforeach()
if(count LESS 100)
  message(FATAL_ERROR "the documents name only ${count} files, links and members")
endif()
message(STATUS "${count} names")
