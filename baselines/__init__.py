"""Methods that ShaLa is compared with: one file each."""
