#!/bin/sh
# Stands in for mount-s3 in tests: takes what its help documents (1.22), as strictly as it does, and writes down what it was given.
refuse() { echo "error: $*" >&2; exit 2; }
once() { case " $given " in *" $1 "*) refuse "the argument '$1' cannot be used multiple times" ;; esac; given="$given $1"; }
given="" positions=0
: >"$0.arguments"
for argument in "$@"; do echo "$argument" >>"$0.arguments"; done
while [ $# -gt 0 ]; do
  case $1 in
    --allow-other | --allow-root | --allow-delete | --allow-overwrite | --incremental-upload | --read-only | --auto-unmount | --force-path-style | --dual-stack | \
      --transfer-acceleration | --requester-pays | --no-sign-request | --foreground | --log-metrics | --debug | --debug-crt | --no-log) once "$1" ;;
    --file-mode | --dir-mode)
      once "$1"
      shift
      case ${1:-} in [0-7][0-7][0-7] | 0[0-7][0-7][0-7]) ;; *) refuse "invalid value '${1:-}'" ;; esac ;;
    --region | --endpoint-url | --prefix | --profile | --uid | --gid | --part-size | --cache | --max-cache-size | --metadata-ttl | --log-directory | --max-threads)
      once "$1"
      shift
      [ $# -gt 0 ] || refuse "a value is required" ;;
    -*) refuse "unexpected argument '$1' found" ;;
    *)
      positions=$((positions + 1))
      case $positions in 1) bucket=$1 ;; 2) directory=$1 ;; *) refuse "unexpected argument '$1' found" ;; esac ;;
  esac
  shift
done
[ $positions = 2 ] || refuse "the following required arguments were not provided: <BUCKET_NAME> <DIRECTORY>"
case " $given " in *" --allow-other "*) case " $given " in *" --allow-root "*) refuse "--allow-other cannot be used with --allow-root" ;; esac ;; esac
case $bucket in *[!a-z0-9.-]* | ?? | ?) refuse "invalid bucket name '$bucket'" ;; esac
[ ${#bucket} -le 63 ] || refuse "bucket names have 63 characters at most"
[ -d "$directory" ] || refuse "mount point $directory does not exist"
env >"$0.environment"
