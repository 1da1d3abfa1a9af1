//! The block list.

use ipnet::IpNet;

use super::{Agent, Error, Result};
use crate::api::types::{Block, Count};

impl Agent {
    /// Blocks a source prefix at every uplink.
    pub fn block(&self, cidr: IpNet) -> Result<Block> {
        let _changes = self.changes();
        let cidr = cidr.trunc();
        let mut blocks = self.store.blocks()?;
        if !blocks.contains(&cidr) {
            blocks.push(cidr);
            blocks.sort();
            self.store.put_blocks(&blocks)?;
        }
        if let Err(error) = self.kernel.maps().block(cidr) {
            blocks.retain(|other| *other != cidr);
            self.store.put_blocks(&blocks)?;
            return Err(error.into());
        }
        self.apply_block_flag()?;
        self.find_block(cidr)
    }

    /// Lifts a block; returns what it had stopped.
    pub fn unblock(&self, cidr: IpNet) -> Result<Block> {
        let _changes = self.changes();
        let cidr = cidr.trunc();
        let block = self.find_block(cidr)?;
        self.kernel.maps().unblock(cidr)?;
        let mut blocks = self.store.blocks()?;
        blocks.retain(|other| *other != cidr);
        self.store.put_blocks(&blocks)?;
        self.apply_block_flag()?;
        Ok(block)
    }

    /// The block list.
    pub fn blocks(&self) -> Result<Vec<Block>> {
        let blocks = self.kernel.maps().blocks()?;
        let blocks = blocks.into_iter().map(|(cidr, counter)| Block {
            cidr,
            count: Count::from(counter),
        });
        Ok(blocks.collect())
    }

    /// Brings the map in step with the store, which outlives a reboot.
    pub(super) fn recover_blocks(&self) -> Result<()> {
        let wanted = self.store.blocks()?;
        let maps = self.kernel.maps();
        for (cidr, _) in maps.blocks()? {
            if !wanted.contains(&cidr) {
                maps.unblock(cidr)?;
            }
        }
        for cidr in wanted {
            maps.block(cidr)?;
        }
        Ok(())
    }

    /// Uplinks look packets up only while there is something to find.
    fn apply_block_flag(&self) -> Result<()> {
        let uplinks: Vec<_> = {
            let state = self.state();
            let uplinks = state.uplinks.values();
            uplinks
                .filter_map(|uplink| Some((uplink.record.clone(), uplink.interface.clone()?)))
                .collect()
        };
        for (record, interface) in uplinks {
            self.configure_uplink(&record, &interface)?;
        }
        Ok(())
    }

    fn find_block(&self, cidr: IpNet) -> Result<Block> {
        let mut blocks = self.blocks()?.into_iter();
        blocks.find(|block| block.cidr == cidr).ok_or_else(|| {
            Error::NotFound(format!(
                "{cidr} is not on the block list; `sluice block list` shows it"
            ))
        })
    }
}
