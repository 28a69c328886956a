# Holds a guest's export on its node, and undoes it when vmconsole vanishes. Perl with core modules only.
#
# Argument: hold|clean. On stdin a line with a document (JSON): see document.py for its fields and the steps.
# What is done is remembered in the document's folder, below /run, so that whoever undoes it knows:
#   owner     run, number and start of the first process      document   as handed over
#   lock      "taking" or "held": the lock in the guest's configuration is ours
#   frozen    until when (monotonic) the guest may be frozen  early      it was thawed before the cut
#   paused    we paused the guest                          serving  QEMU's NBD server is ours
#   mark.NAME see the steps                                child.PID  the program that process runs now
#   committed the archive is safe: from here on the way is forward, not back
#
# hold: commands follow on stdin, one a line, answers on stdout behind "@ ":
#   do STEPS         result NAME VALUE..., then done or failed WHY
#   cut STEPS        freeze, do, thaw; then ready or failed WHY
#   meet STEPS       as cut, but between freeze and do: waiting, then go or apart
#   status           state WORD EXPORTS: of QEMU's run state, and how many exports of ours there are
#   commit WORD      finish what the document says: committed|stuck WHY|lost, and exit
#   rollback WORD    undo everything: clean|stuck WHY, and exit. WORD `frozen`: that it may be is noted elsewhere
#   beat             nothing: a sign of life
# The end of stdin, or silence, is a rollback (or, once committed, a commit). So is the death of this
# process: the watcher does it then.
use strict;
use warnings;
use Encode qw(decode);
use Errno qw(EAGAIN ECONNREFUSED EINTR ENOENT);
use Fcntl qw(:flock);
use IO::Select;
use IO::Socket::UNIX;
use JSON::PP;
use POSIX qw(:sys_wait_h);
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC sleep);

$ENV{LC_ALL} = 'C';
$ENV{PATH} .= ':/usr/sbin:/sbin';
$SIG{$_} = 'IGNORE' for qw(HUP PIPE INT);
umask 077;
binmode STDOUT;

my ($mode) = @ARGV;
my $json = JSON::PP->new->utf8->canonical->allow_nonref;
my ($session, $opened, $gone, $watcher, $events, $buffer) = (undef, 0, 0, undef, undef, '');
my ($text, $doc, $vmid, $folder);

sub now { clock_gettime(CLOCK_MONOTONIC) }

sub flat {
    my $line = join ' ', grep { defined } @_;
    $line =~ s/\s+/ /g;
    return substr $line, 0, 600;
}

sub say {
    my @words = @_;
    for (@words) { utf8::encode($_) if utf8::is_utf8($_) }
    my $line = "@ @words\n";
    # The watcher speaks too, and long lines are not written in one piece.
    my $turn;
    if (open $turn, '>>', "$folder/say") { flock $turn, LOCK_EX }
    syswrite STDOUT, $line;
    close $turn if $turn;
}

# --- the guest's agent ---

my $no_guest = qr/VM \S+ (?:is )?not running|not configured|No QEMU guest agent|does not exist|has been disabled|not supported/;
# Of a freeze, it was not even asked. An agent that is busy with one is said to be "not running" as well.
my $no_agent = qr/$no_guest|not running/;

sub agent { return program($_[1], 'qm', 'guest', 'cmd', $vmid, $_[0]) }

sub thaw {
    my ($status, $said) = agent('fsfreeze-thaw', $doc->{patience} + 10);
    forget('frozen') if !$status || $said =~ $no_guest || ($doc->{process} && !lives($doc->{process}));
    return flat($said);
}

sub freeze {
    my $began = now();
    say('freezing');
    note('frozen', $began + $doc->{budget});
    my ($status, $said) = agent('fsfreeze-freeze', $doc->{patience} * 2 + 5);
    if (!$status) {
        say(sprintf 'froze %d', 1000 * (now() - $began));
        return $began;
    }
    # It may still be queued in the agent's channel and run when the agent wakes up.
    $said =~ $no_agent ? forget('frozen') : thaw();
    say('unfrozen', defined noted('frozen') ? 'yes' : 'no', flat($said));
    return;
}

# Nobody is cut before all are frozen. A silence is a no: the watcher thaws the guest at its end anyway.
sub meet {
    say('waiting');
    return (line($doc->{budget} + 2) // '') eq 'go';
}

sub cut {
    my ($steps, $together) = @_;
    my $froze = $doc->{freeze} ? freeze() : undef;
    my ($good, $why) = (0, 'apart');
    if (!$together || meet()) {
        say('cutting');
        my $at = now();
        $good = eval { step($_) for @$steps; 1 };
        $why = $@;
        if ($good) { note('cut'); say(sprintf 'cut %d', 1000 * (now() - $at)) }
        else { eval { resume() } }
        hang_up();
    }
    if (defined $froze) {
        my $said = thaw();
        $said = thaw() if defined noted('frozen');
        my $took = sprintf '%d', 1000 * (now() - $froze);
        if (defined noted('frozen')) { say('unthawed', $took, $said) }
        else { say('thawed', $took, defined noted('early') ? 'yes' : 'no') }
    }
    say($good ? 'ready' : ('failed', flat($why)));
}

# --- the lock in the guest's configuration ---

# Of the guest's first section; nothing when it cannot be read.
sub locked {
    if (open my $file, '<', "/etc/pve/qemu-server/$vmid.conf") {
        while (my $line = <$file>) {
            last if $line =~ /^\[/;
            return $1 if $line =~ /^lock:\s*(\S+)/;
        }
        return '';
    }
    my ($status, $said) = program(60, 'qm', 'config', $vmid, '--current');
    return if $status;
    return $said =~ /^lock:\s*(\S+)/m ? $1 : '';
}

sub vzdump_runs {
    open my $file, '<', '/var/run/vzdump.lock' or return 0;
    return !flock $file, LOCK_SH | LOCK_NB;
}

# Without a word when the lock is ours now; otherwise why it is not.
sub take_lock {
    note('lock', 'taking');
    my ($status, $said) = program(60, 'qm', 'set', $vmid, '--lock', 'backup');
    if ($status) { forget('lock') if $status != 124; return flat($said) || 'qm set failed' }
    note('lock', 'held');
    return;
}

sub drop_lock {
    my $state = noted('lock') // return;
    my $lock = locked();
    if (defined $lock && $lock eq 'backup' && !($state eq 'taking' && vzdump_runs())) {
        my ($status, $said) = program(60, 'qm', 'unlock', $vmid);
        return flat("qm unlock: $said") if $status;
    }
    elsif (!defined $lock) {
        my ($status, $said) = program(60, 'qm', 'status', $vmid);
        return 'the configuration of the guest cannot be read' unless $said =~ /does not exist/;
    }
    forget('lock');
    return;
}

# --- the end ---

# What is left, nothing when all is undone; the folder is then gone. known: see above. A guest that may be frozen
# keeps no lock, which would be in the way of whoever helps it.
sub undo {
    my ($known) = @_;
    return unless -d $folder;
    open my $turn, '>>', "$folder/undoing" or return -d $folder ? "$folder: $!" : ();
    flock $turn, LOCK_EX;
    return unless -d $folder;
    $gone = 0;
    my (@problems, @frozen);
    if (defined noted('frozen')) {
        my $said = thaw();
        push @frozen, "the guest may be frozen: $said" if defined noted('frozen') && !$known;
    }
    eval { resume(); 1 } or $gone or push @problems, flat($@);
    hang_up();
    my $way = defined noted('committed') ? $doc->{commit} : $doc->{undo};
    my @left = all_steps($way);
    # A QEMU that ends just now fails a step or two, and takes with it all that was to be undone.
    if (grep { /QEMU (?:went away|runs, but)/ } @left) {
        for (1 .. 100) { last unless lives($doc->{process}); sleep 0.1 }
        @left = all_steps($way) unless lives($doc->{process});
    }
    push @problems, @left;
    @problems = grep { defined } drop_lock() unless @problems;
    return (@frozen, @problems) if @frozen || @problems;
    # The other process may be saying something.
    for (1 .. 20) {
        unlink glob "$folder/* $folder/.*.new";
        return if rmdir $folder;
        sleep 0.05;
    }
    return "$folder: $!";
}

# From here on what is left to do is the document's commit. False when it was all undone before.
sub commit {
    open my $turn, '>>', "$folder/undoing" or return 0;
    flock $turn, LOCK_EX;
    return 0 unless -d $folder;
    note('committed');
    return 1;
}

sub finish {
    my ($good, $word) = @_;
    stop_watching();
    my @left = undo(($word // '') eq 'frozen');
    say(@left ? ('stuck', flat(join '; ', @left)) : $good);
    return !@left;
}

# --- the watcher ---

sub stop_watching {
    return unless $watcher;
    kill TERM => $watcher;
    waitpid $watcher, 0;
    $watcher = undef;
}

sub free_bytes {
    my $watch = $doc->{watch} or return;
    if (defined $watch->{folder}) {
        my ($status, $said) = program(20, 'stat', '-f', '-c', '%a %S', '--', $watch->{folder});
        return $1 * $2 if !$status && $said =~ /^(\d+) (\d+)/;
    }
    elsif (defined $watch->{storage}) {
        my ($status, $said) = program(60, 'pvesm', 'status', '--storage', $watch->{storage});
        return 1024 * $1 if !$status && $said =~ /^\Q$watch->{storage}\E\s+\S+\s+active\s+\d+\s+\d+\s+(\d+)/m;
    }
    return;
}

sub give_up {
    my ($why, $parent) = @_;
    say($why);
    undo();
    say('gave-up');
    sleep 1 while getppid() == $parent;
    POSIX::_exit(0);
}

sub watch {
    my ($parent) = @_;
    my ($ticks, $space) = (0, 0);
    $session = undef;
    while (1) {
        my $frozen = noted('frozen');
        sleep 0.2;
        if (getppid() != $parent) {
            settle();
            my $tries = 0;
            while (undo() && $tries++ < 60) { sleep 10 }
            POSIX::_exit(0);
        }
        if (defined $frozen && $frozen ne '' && now() > $frozen) {
            note('early') unless defined noted('cut');
            thaw();
            if (defined noted('frozen')) { note('frozen', now() + 5) }
            elsif (defined noted('cut')) { say('late-thaw') }
        }
        next if now() < $ticks;
        $ticks = now() + 1;
        if ($doc->{process} && !lives($doc->{process})) { say('stopped'); sleep 1 while getppid() == $parent; next }
        next unless $doc->{watch} && now() >= $space;
        $space = now() + ($doc->{watch}{folder} ? 1 : 15);
        my $free = free_bytes();
        give_up("space $free", $parent) if defined $free && $free < $doc->{watch}{reserve} && !defined noted('committed');
    }
}

sub start_watching {
    my $parent = $$;
    $watcher = fork // die "fork: $!\n";
    return if $watcher;
    $SIG{TERM} = sub { POSIX::_exit(0) };
    open STDIN, '<', '/dev/null';
    watch($parent);
}

# --- begin ---

# A document of another run, that died without being able to undo, replaces ours for as long.
sub undo_earlier {
    my ($run, $owner) = split ' ', noted('owner') // '';
    return "run $run of vmconsole works on it" if lives($owner);
    settle();
    my $mine = $doc;
    my $theirs = eval { $json->decode(noted('document') // '') };
    # It died before it had begun.
    $doc = $theirs // { %$mine, undo => [], commit => [], process => '' };
    my @left = undo();
    $doc = $mine;
    return @left ? 'an earlier run left something: ' . join '; ', @left : ();
}

sub begin {
    if (-e $folder) {
        my ($why) = undo_earlier();
        if (defined $why) { say('busy', flat($why)); exit 0 }
    }
    my ($above) = $folder =~ m{^(.*)/};
    mkdir $above, 0755;
    mkdir $folder or do { say('failed', "$folder: $!"); exit 0 };
    note('owner', "$doc->{run} $$:" . began($$));
    note('document', $text);
    # Held by both processes: a guest that powers off keeps its QEMU until the last of them ends.
    if ($doc->{events}) {
        $events = IO::Socket::UNIX->new(Peer => $doc->{events}, Timeout => 5);
        if ($events) { syswrite $events, $json->encode({ vzdump => { vmid => "$vmid" } }) }
        else { say('no-events', flat("$doc->{events}: $!")) }
    }
    start_watching();
    if ($doc->{lock}) {
        my $why = take_lock();
        if (defined $why) {
            stop_watching();
            $doc->{undo} = [];
            undo();
            say('locked', $why);
            exit 0;
        }
    }
    say('hello');
}

# The next line; nothing at the end, or after too long a silence.
sub line {
    my ($patience) = @_;
    my $end = now() + ($patience // ($doc ? $doc->{silence} : 60));
    while (index($buffer, "\n") < 0) {
        my $left = $end - now();
        return if $left <= 0;
        next unless IO::Select->new(\*STDIN)->can_read($left < 5 ? $left : 5);
        my $got = sysread STDIN, my $part, 65536;
        next if !defined $got && $! == EINTR;
        return unless $got;
        $buffer .= $part;
    }
    $buffer =~ s/^([^\n]*)\n//;
    return $1;
}

sub status {
    my @answer = eval { (ask('query-status')->{status}, scalar exports('vmc-')) };
    my $why = $@;
    hang_up();
    if (@answer) { say('state', @answer) }
    else { say('state', $gone ? 'gone' : 'unknown', 0, flat($why)) }
}

sub hold {
    begin();
    while (defined(my $line = line())) {
        my ($command, $rest) = split / /, $line, 2;
        if    ($command eq 'do')     { say('done') if steps($json->decode($rest)) }
        elsif ($command eq 'cut')    { cut($json->decode($rest)) }
        elsif ($command eq 'meet')   { cut($json->decode($rest), 1) }
        elsif ($command eq 'status') { status() }
        elsif ($command eq 'commit') {
            if (commit()) { finish('committed', $rest) }
            else { stop_watching(); say('lost') }
            exit 0;
        }
        elsif ($command eq 'rollback') { finish('clean', $rest); exit 0 }
    }
    stop_watching();
    my $tries = 0;
    # An agent that hung carries out the freeze when it wakes up, and nobody else is left to thaw.
    while (undo() && $tries++ < 60) { sleep 10 }
}

sub clean {
    my ($run, $owner) = split ' ', noted('owner') // '';
    # Undoing it already, as after a connection that broke?
    for (1 .. 300) { last unless -e "$folder/undoing" && lives($owner); sleep 0.1 }
    if (-d $folder && lives($owner)) {
        if ($run eq $doc->{run}) { say('stuck', 'the program that holds it still runs on the node'); return }
    }
    elsif (-d $folder) {
        my ($why) = undo_earlier();
        if (defined $why) { say('stuck', flat($why)); return }
    }
    # What outlives the folder, which is in memory: volumes, and the lock in the configuration.
    my @problems = all_steps([ grep { $_->{run} } @{ $doc->{undo} } ]);
    open my $file, '<', '/proc/sys/kernel/random/boot_id';
    my $boot = <$file> // '';
    if ($doc->{lock} && !-d $folder && index($boot, $doc->{boot}) && !vzdump_runs()
        && (locked() // '') eq 'backup') {
        my ($status, $said) = program(60, 'qm', 'unlock', $vmid);
        push @problems, flat("qm unlock: $said") if $status;
    }
    if (@problems) { say('stuck', flat(join '; ', @problems)) }
    else { say('clean') }
}

sub main {
    $text = line() // exit 1;
    $doc = $json->decode($text);
    ($vmid, $folder) = @$doc{qw(vmid folder)};
    if ($mode eq 'clean') { clean() }
    else { hold() }
}
