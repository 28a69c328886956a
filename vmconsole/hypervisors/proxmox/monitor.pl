# What guard.pl is built on: notes in the folder, programs, QEMU's monitor, and the steps of a document.
# Handed to Perl in one piece with guard.pl, which comes before it and is called at the end.

# --- what is remembered ---

sub note {
    my ($name, $value) = @_;
    open my $file, '>', "$folder/.$name.new" or die "$folder: $!\n";
    print {$file} $value // '';
    close $file or die "$folder: $!\n";
    rename "$folder/.$name.new", "$folder/$name" or die "$folder: $!\n";
}

sub noted {
    my ($name) = @_;
    open my $file, '<', "$folder/$name" or return;
    local $/;
    return <$file> // '';
}

sub forget { unlink "$folder/$_[0]" }

# When a process began, which with its number makes it one of a kind; nothing when it is gone.
sub began {
    my ($pid) = @_;
    open my $file, '<', "/proc/$pid/stat" or return '';
    my $stat = <$file> // '';
    my @fields = split ' ', substr $stat, rindex($stat, ')') + 1;
    return @fields > 19 && $fields[0] ne 'Z' ? $fields[19] : '';
}

sub lives {
    my ($pid, $start) = split /:/, $_[0] // '';
    return defined $start && $start ne '' && began($pid) eq $start;
}

# --- programs ---

# Wait for what a process that was killed had started last, as it may be under way yet.
sub settle {
    for my $file (glob "$folder/child.*") {
        my $child = noted($file =~ m{([^/]+)\z});
        for (1 .. 600) { last unless lives($child); sleep 0.1 }
    }
}

# (status, output with errors). Status 124: it did not end in time and was killed.
sub program {
    my ($limit, @argv) = @_;
    pipe my $out, my $in or return (1, "$!");
    my $pid = fork // return (1, "$!");
    if (!$pid) {
        $SIG{$_} = 'DEFAULT' for qw(HUP PIPE INT);
        open STDIN, '<', '/dev/null';
        open STDOUT, '>&', $in;
        open STDERR, '>&', $in;
        exec { $argv[0] } @argv or do { print STDERR "$argv[0]: $!\n"; POSIX::_exit(127) };
    }
    close $in;
    note("child.$$", "$pid:" . began($pid)) if -d $folder;
    my ($said, $end, $late) = ('', now() + $limit, 0);
    my $select = IO::Select->new($out);
    while (1) {
        my $left = $end - now();
        if ($left <= 0) { $late = 1; last }
        if ($select->can_read($left < 0.5 ? $left : 0.5)) {
            my $got = sysread $out, my $part, 65536;
            next if !defined $got && $! == EINTR;
            last unless $got;
            $said .= $part if length $said < 65536;
        }
        # What it left running may hold the pipe open; only itself is waited for.
        last if waitpid($pid, WNOHANG) == $pid and $late = -1;
    }
    my $status = $?;
    if ($late == 1) { kill KILL => $pid }
    if ($late >= 0) { waitpid $pid, 0; $status = $? }
    forget("child.$$");
    return (124, "$argv[0] gave no answer within $limit s: $said") if $late == 1;
    return ($status & 127 ? 128 + ($status & 127) : $status >> 8, $said);
}

# --- QEMU's monitor: short sessions, because Proxmox polls every guest through the same socket ---

sub hang_up {
    close $session->{socket} if $session;
    $session = undef;
}

sub receive {
    my ($end) = @_;
    while (index($session->{buffer}, "\n") < 0) {
        my $left = $end - now();
        die "QEMU does not answer\n" if $left <= 0;
        next unless IO::Select->new($session->{socket})->can_read($left);
        my $got = sysread $session->{socket}, my $part, 65536;
        next if !defined $got && $! == EINTR;
        die "QEMU went away\n" unless $got;
        $session->{buffer} .= $part;
    }
    $session->{buffer} =~ s/^([^\n]*)\n//;
    return $json->decode($1);
}

sub dial {
    my $end = now() + 20;
    while (1) {
        my $socket = IO::Socket::UNIX->new(Peer => $doc->{qmp}, Timeout => 5);
        if ($socket) {
            $session = { socket => $socket, buffer => '', count => 0 };
            my $greeted = eval { receive($end)->{QMP} };
            if ($greeted) {
                $opened = now();
                ask('qmp_capabilities');
                return;
            }
            hang_up();
        }
        elsif ($! == ENOENT || $! == ECONNREFUSED) {
            die "QEMU runs, but its monitor is gone\n" if lives($doc->{process});
            $gone = 1;
            die "QEMU is gone\n";
        }
        die "QEMU's monitor is busy\n" if now() > $end;
        sleep 0.1;
    }
}

# What a command returns. Dies with QEMU's own words when it refuses.
sub ask {
    my ($command, $arguments, $limit) = @_;
    hang_up() if $session && now() - $opened > 1;
    dial() unless $session;
    my $id = "vmc-$$-" . ++$session->{count};
    my %request = (execute => $command, id => $id);
    $request{arguments} = $arguments if $arguments;
    my $line = $json->encode(\%request) . "\n";
    my $sent = syswrite $session->{socket}, $line;
    my $answer = eval {
        die "QEMU went away\n" unless ($sent // 0) == length $line;
        my $end = now() + ($limit // 60);
        # Events, and what another client left behind, are not for us.
        while (1) {
            my $message = receive($end);
            return $message if ref $message eq 'HASH' && ($message->{id} // '') eq $id;
        }
    };
    if (!$answer) {
        my $why = $@;
        hang_up();
        die $why;
    }
    die flat($answer->{error}{class}, $answer->{error}{desc}) . "\n" if $answer->{error};
    return $answer->{return};
}

# --- steps ---

sub exports { return grep { index($_->{id}, $_[0]) == 0 } @{ ask('query-block-exports') } }

sub cancel {
    my ($id) = @_;
    my $end = now() + 60;
    my $asked = 0;
    while (1) {
        my ($job) = grep { $_->{id} eq $id } @{ ask('query-jobs') };
        return unless $job && $job->{status} ne 'null';
        if ($job->{status} eq 'concluded') { ask('job-dismiss', { id => $id }); return }
        if (!$asked++) { eval { ask('job-cancel', { id => $id }) } }
        die "job $id does not end\n" if now() > $end;
        hang_up();
        sleep 0.05;
    }
}

sub serve {
    my ($path) = @_;
    my @others = @{ ask('query-block-exports') };
    die "another program exports disks of this guest ($others[0]{id})\n" if @others;
    note('serving');
    eval { ask('nbd-server-start', { addr => { type => 'unix', data => { path => $path } } }); 1 } or do {
        my $why = $@;
        forget('serving') if $why =~ /already running/;
        die $why;
    };
}

sub unserve {
    my ($prefix) = @_;
    for my $export (exports($prefix)) {
        eval { ask('block-export-del', { id => $export->{id}, mode => 'hard' }) };
    }
    my $end = now() + 30;
    while (exports($prefix)) {
        die "an export does not end\n" if now() > $end;
        hang_up();
        sleep 0.05;
    }
    return unless defined noted('serving');
    # A server that others use by now is theirs.
    if (!@{ ask('query-block-exports') }) {
        eval { ask('nbd-server-stop'); 1 } or do { my $why = $@; die $why unless $why =~ /not running/ };
    }
    forget('serving');
}

sub pause {
    return unless ask('query-status')->{status} eq 'running';
    note('paused');
    ask('stop');
}

sub resume {
    return unless defined noted('paused');
    ask('cont') if ask('query-status')->{status} eq 'paused';
    forget('paused');
}

# Make a guest's device work on another node. Where it is there already QEMU must not be told: it aborts.
sub point {
    my ($to) = @_;
    my ($device, $key) = @$to{qw(device key)};
    my ($block) = grep { $_->{device} eq $device || ($_->{qdev} // '') =~ m{(?:^|/)\Q$key\E(?:/virtio-backend)?\z} }
        @{ ask('query-block') };
    my $node = $block && $block->{inserted} ? $block->{inserted}{'node-name'} : '';
    return if $node eq $to->{node};
    die "$device is not found where it was left\n" if $node ne $to->{from};
    ask('qom-set', { path => "/machine/peripheral/$key", property => 'drive', value => $to->{node} });
}

sub step {
    my ($step) = @_;
    return if defined $step->{if} && -d $folder && !defined noted("mark.$step->{if}");
    my @marks = map { "mark.$_" } ref $step->{mark} ? @{ $step->{mark} } : $step->{mark} // ();
    note($_) for @marks;
    my $value = eval {
        if    (defined $step->{qmp})     { return ask($step->{qmp}, $step->{arguments}, $step->{limit}) // {} }
        elsif (defined $step->{cancel})  { cancel($step->{cancel}) }
        elsif (defined $step->{serve})   { serve($step->{serve}) }
        elsif (defined $step->{unserve}) { unserve($step->{unserve}) }
        elsif (defined $step->{point})   { point($step->{point}) }
        elsif ($step->{pause})           { pause() }
        elsif ($step->{resume})          { resume() }
        elsif ($step->{run}) {
            hang_up();
            my ($status, $said) = program($step->{limit} // 120, @{ $step->{run} });
            die flat("$step->{run}[0] $step->{run}[1]: $said") . "\n" if $status;
            return decode('UTF-8', $said);
        }
        return {};
    };
    if (!defined $value) {
        my $why = $@ || "unknown error\n";
        return if defined $step->{ignore} && $why =~ /$step->{ignore}/;
        # Refused: it was not done, and is not ours to undo.
        if ($why !~ /does not answer|went away|gave no answer/) { forget($_) for @marks }
        die $why;
    }
    if (defined $step->{expect} && $value !~ /$step->{expect}/) {
        return if defined $step->{ignore} && $value =~ /$step->{ignore}/;
        forget($_) for @marks;
        die flat('QEMU answered:', $value) . "\n";
    }
    forget("mark.$step->{if}") if defined $step->{if};
    say('result', $step->{keep}, $json->encode($value)) if defined $step->{keep};
    return;
}

# True when all went well; otherwise says why.
sub steps {
    my ($steps) = @_;
    my $good = eval { step($_) for @$steps; 1 };
    my $why = $@;
    hang_up();
    say('failed', flat($why)) unless $good;
    return $good;
}

# All steps, whatever becomes of each. Returns what went wrong.
sub all_steps {
    my @problems;
    for my $step (@{ $_[0] }) {
        next if $gone && !$step->{run};
        next if eval { step($step); 1 };
        push @problems, flat($@) unless $gone && !$step->{run};
    }
    hang_up();
    return @problems;
}
