# Reads files of a Proxmox node and prints them so that nothing in them can be taken for anything else:
#   TOKEN WORD LENGTH-OF-NAME LENGTH-OF-DATA LENGTH-OF-ERROR newline NAME DATA ERROR newline
# Arguments: TOKEN, then pairs of an operation and what it is about. Changes nothing.
use strict;
use warnings;
use Fcntl qw(:flock);

my $limit = 4 << 20;
my $token = shift @ARGV;
binmode STDOUT;
alarm 90;

sub answer {
    my ($word, $name, $data, $error) = @_;
    printf "%s %s %d %d %d\n%s%s%s\n", $token, $word, length $name, length $data, length $error,
        $name, $data, $error;
}

sub content {
    my ($path) = @_;
    open my $file, '<:raw', $path or return ('', "$!");
    my ($data, $got) = ('', 0);
    while ($got = read $file, my $part, 65536) {
        $data .= $part;
        return (substr($data, 0, $limit), 'too large') if length $data > $limit;
    }
    return ($data, defined $got ? '' : "$!");
}

# What tells a guest from others: of each file the lines of its first section that may.
sub identity {
    my ($data) = @_;
    my $kept = '';
    for my $line (split /\n/, $data) {
        last if $line =~ /^\[(?:special:|pve:)?[a-z][a-z0-9_-]+\]\s*$/i;
        $kept .= "$line\n" if $line =~ /^(?:smbios1|vmgenid):/;
    }
    return $kept;
}

sub process {
    my ($pidfile) = @_;
    my ($pid) = content($pidfile);
    return unless $pid =~ /^\s*(\d{1,10})\s*$/;
    $pid = $1;
    my ($stat) = content("/proc/$pid/stat");
    my ($arguments) = content("/proc/$pid/cmdline");
    # A number that was given out again is another program's.
    my ($name) = $pidfile =~ m{([^/]+)\z};
    return unless $stat ne '' and grep { m{(?:^|/)\Q$name\E\z} } split /\0/, $arguments;
    my @fields = split ' ', substr $stat, rindex($stat, ')') + 1;
    return "$pid:$fields[19]";
}

my %operations = (
    file => sub { answer('file', $_[0], content($_[0])) },
    files => sub { answer('file', $_, content($_)) for glob $_[0] },
    identities => sub {
        for my $path (glob $_[0]) {
            my ($data, $error) = content($path);
            answer('identity', $path, identity($data), $error);
        }
    },
    process => sub { answer('process', $_[0], process($_[0]) // '', '') },
    lock => sub {
        my $held = '';
        if (open my $file, '<', $_[0]) { $held = 'held' unless flock $file, LOCK_SH | LOCK_NB }
        answer('lock', $_[0], $held, '');
    },
    size => sub {
        my ($size, $error) = ('', '');
        if (open my $file, '<:raw', $_[0]) { $size = sysseek($file, 0, 2) // ''; $size += 0 if $size }
        else { $error = "$!" }
        answer('size', $_[0], $size, $error);
    },
    space => sub {
        my $said = '';
        if (open my $pipe, '-|', 'stat', '-f', '-c', '%a %S', '--', $_[0]) { local $/; $said = <$pipe> // '' }
        answer('space', $_[0], $said, '');
    },
    have => sub {
        my $program = $_[0];
        my ($folder) = grep { -x "$_/$program" } split /:/, "$ENV{PATH}:/usr/sbin:/sbin";
        answer('have', $program, $folder // '', '');
    },
);

while (my ($operation, $about) = splice @ARGV, 0, 2) {
    my $run = $operations{$operation} or die "no operation $operation\n";
    $run->($about);
}
answer('end', '', '', '');
