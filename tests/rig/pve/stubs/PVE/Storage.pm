package PVE::Storage;
# What the exports call of Proxmox's library. Notes what was activated in $PVE_STUBS/calls.
use strict;
use warnings;
sub config { return {} }
sub note {
    my ($what, $cfg, $volumes) = @_;
    open my $file, '>>', "$ENV{PVE_STUBS}/calls" or die "$!";
    print {$file} "$what @$volumes\n";
    close $file;
}
sub activate_volumes { note('activate', @_) }
sub deactivate_volumes { note('deactivate', @_) }
1;
