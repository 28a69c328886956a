# Feeds a restoring program (qmrestore, pct) with what arrives on standard input, and says how it ended.
#   perl -e RECEIVE -- SILENCE GRACE PROGRAM ARGUMENT…
# Input: pieces, each a length (4 bytes, big-endian) and so many bytes; length 0 is the end. An input that
# ends without it, or says nothing for SILENCE seconds, is broken off: the program must then never
# take what it got for the whole, which a tar that is cut between two files would pass for. So it
# gets rubbish last, and GRACE seconds to fail and clean up, before it is ended.
# Output: `@ ended STATUS\n` (128 + signal for a signal), then the last of what the program said. The program
# writes into a file without a name, so that a broken connection never stops its cleaning up.
use strict;
use warnings;
use Errno;
use IO::Select;
use POSIX ();

my ($silence, $grace, @command) = @ARGV;
my $tail = 16384;
my $largest = 16 << 20;

open(my $log, '+>', undef) or die "there is no space for a temporary file: $!\n";
pipe(my $out, my $in) or die "pipe: $!\n";
binmode($_) for ($out, $in, \*STDIN);
my $pid = fork();
die "fork: $!\n" if !defined $pid;
if (!$pid) {
    close($in);
    open(STDIN, '<&', $out) && open(STDOUT, '>&', $log) && open(STDERR, '>&', $log) or POSIX::_exit(126);
    close($out);
    { no warnings 'exec'; exec { $command[0] } @command; }
    print STDERR "$command[0] cannot be run: $!\n";
    POSIX::_exit(127);
}
close($out);
$SIG{PIPE} = 'IGNORE';
$SIG{HUP} = 'IGNORE';

my $ready = IO::Select->new(\*STDIN);

# The next bytes of the input, at most $want; undef at its end or after too long a silence.
sub some {
    my ($want) = @_;
    while (1) {
        $! = 0;
        if (!$ready->can_read($silence)) {
            next if $!{EINTR};
            return undef;
        }
        my $count = sysread(STDIN, my $data, $want);
        return $data if $count;
        return undef if defined $count || !$!{EINTR};
    }
}

# Whether the program took it.
sub give {
    my ($data) = @_;
    my $done = 0;
    while ($done < length $data) {
        my $count = syswrite($in, $data, length($data) - $done, $done);
        if (defined $count) { $done += $count; }
        elsif (!$!{EINTR}) { return 0; }
    }
    return 1;
}

my $outcome = 'broken';
INPUT: while (1) {
    my $head = '';
    while (length $head < 4) {
        my $data = some(4 - length $head);
        last INPUT if !defined $data;
        $head .= $data;
    }
    my $left = unpack('N', $head);
    if (!$left) { $outcome = 'whole'; last; }
    last if $left > $largest;
    while ($left) {
        my $data = some($left < 1 << 20 ? $left : 1 << 20);
        last INPUT if !defined $data;
        if (!give($data)) { $outcome = 'refused'; last INPUT; }
        $left -= length $data;
    }
}

my $status;
# Whether it has ended within so many seconds.
sub ended {
    my ($seconds) = @_;
    my $until = time + $seconds;
    while (1) {
        my $found = waitpid($pid, POSIX::WNOHANG());
        if ($found == $pid) { $status = $?; return 1; }
        return 0 if time >= $until;
        select(undef, undef, undef, 0.05);
    }
}

# Whether the rubbish is in the pipe, or nobody reads that any more, within so many seconds.
sub spoilt {
    my ($seconds) = @_;
    my $until = time + $seconds;
    my $room = IO::Select->new($in);
    while (1) {
        if ($room->can_write(0.2)) {
            # A pipe takes 4096 bytes at once or not at all.
            return 1 if defined syswrite($in, "\xff" x 4096) || $!{EPIPE};
        }
        return 0 if time >= $until;
    }
}

if ($outcome eq 'broken') {
    my $flags = fcntl($in, POSIX::F_GETFL(), 0);
    fcntl($in, POSIX::F_SETFL(), $flags | POSIX::O_NONBLOCK()) if defined $flags;
    my @signals = ('TERM', 'KILL');
    while (!spoilt($grace)) {
        # It does not read. It must never see the end of a stream that it could take for whole.
        kill shift(@signals) // 0, $pid;
    }
    close($in);
    for my $signal ('', @signals) {
        kill $signal, $pid if $signal;
        last if ended($grace);
    }
}
close($in) if $outcome ne 'broken';
if (!defined $status) {
    waitpid($pid, 0);
    $status = $?;
}

my $code = $status & 127 ? 128 + ($status & 127) : $status >> 8;
my $size = -s $log;
seek($log, $size > $tail ? $size - $tail : 0, 0);
read($log, my $said, $tail);
$| = 1;
print "\@ ended $code\n", $said // '';
