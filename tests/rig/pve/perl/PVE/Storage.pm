package PVE::Storage;
# The three calls of Proxmox's own module that activation needs. Each activation and deactivation is noted in
# /run/pve-rig.volumes, so that a test can see that none is left.
use strict;
use warnings;

sub config {
    open my $file, '<', '/etc/pve/storage.cfg' or die "unable to open /etc/pve/storage.cfg: $!\n";
    my ($ids, $name) = ({});
    while (my $line = <$file>) {
        if ($line =~ /^(\w+):\s*(\S+)/) { $name = $2; $ids->{$name} = { type => $1 } }
        elsif ($line =~ /^\s+(\S+)(?:\s+(\S+))?/) { $ids->{$name}{$1} = $2 // 1 }
    }
    return { ids => $ids };
}

sub path {
    my ($cfg, $volid) = @_;
    my ($name, $volume) = $volid =~ /^([^:\s]+):(\S+)$/ or die "unable to parse volume ID '$volid'\n";
    my $storage = $cfg->{ids}{$name} or die "storage '$name' does not exist\n";
    return "$storage->{path}/images/$volume";
}

sub _note {
    my ($what, $cfg, $volids) = @_;
    for my $volid (@$volids) {
        my $path = path($cfg, $volid);
        die "volume '$volid' does not exist\n" unless -e $path;
        open my $file, '>>', '/run/pve-rig.volumes' or die "$!\n";
        print $file "$what $volid\n";
    }
}

sub activate_volumes { my ($cfg, $volids) = @_; _note('activate', $cfg, $volids) }
sub deactivate_volumes { my ($cfg, $volids) = @_; _note('deactivate', $cfg, $volids) }
sub activate_storage { my ($cfg, $name) = @_; $cfg->{ids}{$name} or die "storage '$name' does not exist\n"; return 1 }

1;
